"""Ranks: one program run by many processes, on one machine or on several.

``torchrun`` starts the processes; each runs the same steps in the same order. Where work is worth
sharing, every rank computes its share of the rows and all ranks get all rows
(:meth:`Ranks.gather`), so nothing above this module knows how many there are. Rows travel as bytes:
what one rank would have computed is what all ranks have, bit for bit.

A rank ends in one of three ways. It may be lost (killed, or its machine gone): connections break,
and the other ranks raise :class:`RankLostError`. It may fail: it leaves its error where the others
find it before it closes its connections, and they raise the same. Or ``torchrun`` may end it by
SIGTERM because another one has ended (:func:`terminable`).
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, TypeVar, cast

from graphprune import errors
from graphprune.errors import GraphpruneError, OptionError, RankLostError, first_line

if TYPE_CHECKING:
    from torch import Tensor
    from torch._C._distributed_c10d import ProcessGroup, Store

T = TypeVar("T")

TIMEOUT = 1800.0
"""Seconds that a rank waits for the others; ``GRAPHPRUNE_TIMEOUT`` overrides it."""

PATIENCE = 5.0
"""Seconds that the other ranks leave to the leading one to report an error."""

_RESUME = "`graphprune rank ... --resume` takes up what was found"

_ERROR = "error"
_REPORTED = "reported"


@dataclass(frozen=True)
class Ranks:
    """The processes that work together, seen by one of them.

    Args:
        rank: This process, from 0.
        size: How many there are.
        store: Where ranks leave notes for each other; None if there is one rank.
        gpus: Carries rows from GPU to GPU, where every rank has one of its own.
    """

    rank: int = 0
    size: int = 1
    store: Store | None = None
    gpus: ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this rank reads state, writes files and reports."""
        return self.rank == 0

    def share(self, total: int, rank: int | None = None) -> range:
        """Return the rows of ``total`` that a rank computes, this one by default."""
        place = self.rank if rank is None else rank
        return range(total * place // self.size, total * (place + 1) // self.size)

    def gather(self, total: int, compute: Callable[[range], Tensor]) -> Tensor:
        """Compute ``total`` rows together.

        Args:
            total: How many; the same on every rank.
            compute: Returns the rows of a range, (len(range), ...) on the CPU. A row must not
                depend on the range that it is computed in. Not called for an empty share.

        Returns:
            All rows in order, on every rank.

        Raises:
            RankLostError: Another rank is gone.
        """
        if self.size == 1 or total == 0:
            return compute(range(total))
        share = self.share(total)
        rows = compute(share) if share else None
        return self._joined(total, self._padded(total, rows))

    def _padded(self, total: int, rows: Tensor | None) -> Tensor:
        """Return as many rows as the largest share has, of the shape and dtype all rows have."""
        import torch

        layout = None if rows is None else (tuple(rows.shape[1:]), rows.dtype)
        if total < self.size:
            # The last rank's share ends at the last row, so it is never empty.
            layout = self._told(layout, self.size - 1)
        assert layout is not None
        shape, dtype = layout
        padded = torch.zeros(-(-total // self.size), *shape, dtype=dtype)
        if rows is not None:
            padded[: len(rows)] = rows
        return padded

    def _joined(self, total: int, padded: Tensor) -> Tensor:
        import torch
        import torch.distributed as dist

        device = "cpu" if self.gpus is None else "cuda"
        sent = padded.reshape(-1).view(torch.uint8).to(device)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        if sent.numel():
            with _reaching():
                dist.all_gather(received, sent, group=self.gpus)
        parts = [part.cpu().view(padded.dtype).reshape(padded.shape) for part in received]
        counts = [len(self.share(total, rank)) for rank in range(self.size)]
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def agree(self, value: T) -> T:
        """Return the leading rank's value: plain data, equal on every rank.

        Raises:
            RankLostError: Another rank is gone.
        """
        return value if self.size == 1 else self._told(value, 0)

    def led(self, compute: Callable[[], T]) -> T:
        """Return what ``compute`` returns on the leading rank, the only one that calls it.

        Raises:
            GraphpruneError: What it raised there, on every rank.
            RankLostError: Another rank is gone.
        """
        if self.size == 1:
            return compute()
        result: T | None = None
        error: GraphpruneError | None = None
        if self.leads:
            try:
                result = compute()
            except GraphpruneError as raised:
                error = raised
        result, error = self.agree((result, error))
        if error is not None:
            raise error
        return result  # type: ignore[return-value] # None only where compute returned it

    def check_same(self, what: str, digest: str) -> None:
        """Refuse to work with ranks that were given something else.

        Args:
            what: Named in the error: the model, the calibration data, the options.
            digest: Equal where it is the same.

        Raises:
            OptionError: Not all ranks have the same digest; raised on all.
            RankLostError: Another rank is gone.
        """
        if self.size == 1:
            return
        import torch.distributed as dist

        digests: list[str] = [""] * self.size
        with _reaching():
            dist.all_gather_object(digests, digest)
        other = [rank for rank, found in enumerate(digests) if found != digests[0]]
        if other:
            named = ", ".join(map(str, other[:8])) + (", ..." if other[8:] else "")
            raise OptionError(
                f"{what} of rank {named} differs from that of rank 0",
                hint="start every rank with the same command, files, versions and OMP_NUM_THREADS",
            )

    def speaks(self) -> bool:
        """Whether this rank is to report the error that ends all ranks.

        The leading rank does; another one only where it is gone or busy. True for one rank.
        """
        if self.store is None:
            return True
        try:
            if not self.leads:
                with suppress(RuntimeError):
                    self.store.wait([_REPORTED], timedelta(seconds=PATIENCE))
            return bool(self.store.add(_REPORTED, 1) == 1)
        except RuntimeError:
            return True  # the notes have gone with a machine: twice is better than never

    def _told(self, value: T, source: int) -> T:
        import torch.distributed as dist

        values = [value]
        with _reaching():
            dist.broadcast_object_list(values, src=source)
        return values[0]


ALONE = Ranks()


@contextmanager
def connected(device: str = "cpu") -> Iterator[Ranks]:
    """Join the ranks that ``torchrun`` has started; without it, work alone.

    An error that leaves the block on one rank leaves it on every rank: the first that fails tells
    the others.

    Args:
        device: ``cpu``, or ``cuda`` or ``auto`` to give every rank a GPU of its machine.

    Raises:
        OptionError: The environment is not that of ``torchrun``.
        RankLostError: Another rank is gone.
    """
    if _number("WORLD_SIZE", 1) == 1:
        yield ALONE
        return
    import torch.distributed as dist

    ranks = _joined_ranks(device)
    try:
        yield ranks
        _settle(ranks)
    except (Exception, KeyboardInterrupt) as error:
        cause = _cause(ranks, error)
        if cause is error:
            raise
        raise cause from error
    finally:
        with suppress(_Terminated):  # its work is done, or its error known
            dist.destroy_process_group()


@contextmanager
def terminable() -> Iterator[None]:
    """End the block, as if interrupted, when ``torchrun`` ends this rank by SIGTERM.

    To be wrapped around :func:`connected`. After an error signals stay ignored, so that the process
    can say why it ends; without one they do again what they did. Does nothing without ``torchrun``.
    """
    alone = _number("WORLD_SIZE", 1) == 1
    if alone or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except BaseException:
        _ignore_signals()
        raise
    for name, handler in before.items():
        signal.signal(name, handler)


class _Terminated(KeyboardInterrupt):
    """This rank was sent SIGTERM."""


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    _ignore_signals()
    raise _Terminated


def _ignore_signals() -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)


@contextmanager
def _reaching() -> Iterator[None]:
    """Turn a failed exchange into an error that says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(
            f"another rank was lost or does not answer ({first_line(error, 120)})", hint=_RESUME
        ) from error


# ---- joining and leaving ------------------------------------------------------------------------


def _joined_ranks(device: str) -> Ranks:
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    rank, size, timeout = _number("RANK"), _number("WORLD_SIZE"), _timeout()
    _number("MASTER_PORT")
    with _reaching():
        kept, _, _ = next(rendezvous("env://", timeout=timeout))
        # What ranks wrote there before torchrun started them again must not be taken for theirs.
        store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), kept)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)
        notes = PrefixStore("graphprune", store)
        return Ranks(rank, size, notes, _gpus(device, timeout))


def _gpus(device: str, timeout: timedelta) -> ProcessGroup | None:
    """Give this rank a GPU; return what connects them, if all ranks have one of their own."""
    import torch
    import torch.distributed as dist

    count = torch.cuda.device_count() if device != "cpu" else 0
    if count:
        torch.cuda.set_device(_number("LOCAL_RANK", 0) % count)
    own: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(own, 0 < _number("LOCAL_WORLD_SIZE", 1) <= count)
    if not all(own):
        return None
    return cast("ProcessGroup", dist.new_group(backend="nccl", timeout=timeout))


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise OptionError(
            f"the environment says WORLD_SIZE={os.environ.get('WORLD_SIZE')} and {name}={text!r}",
            hint="start ranks with torchrun, or unset WORLD_SIZE",
        )
    return int(text)


def _timeout() -> timedelta:
    text = os.environ.get("GRAPHPRUNE_TIMEOUT", str(TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise OptionError(f"GRAPHPRUNE_TIMEOUT={text!r} is not a number of seconds above 0")
    return timedelta(seconds=seconds)


def _settle(ranks: Ranks) -> None:
    """Wait until every rank is done, so that none closes a connection that is in use.

    All rows have been exchanged: a rank that is lost now takes nothing with it.
    """
    import torch.distributed as dist

    try:
        dist.barrier()
    except RuntimeError:
        found = _note(ranks)
        if found is not None:
            raise found from None


# ---- errors that all ranks share ----------------------------------------------------------------


def _cause(ranks: Ranks, error: BaseException) -> BaseException:
    """Return the error that ends all ranks: the one a rank has told of, or else this one."""
    assert ranks.store is not None
    known = _ended() if isinstance(error, _Terminated) else error
    try:
        if isinstance(error, (RankLostError, _Terminated)):
            return _note(ranks) or known
        with suppress(RuntimeError):
            # Only the first note counts: what follows from it must not take its place.
            ranks.store.compare_set(_ERROR, "", _written(ranks.rank, error))
    except _Terminated:  # torchrun ends this rank while it asks the others, or tells them
        pass
    return known


def _ended() -> RankLostError:
    return RankLostError("ended from outside: another rank was lost, or the job", hint=_RESUME)


def _written(rank: int, error: BaseException) -> str:
    if isinstance(error, GraphpruneError):
        kind, message, hint = type(error).__name__, error.message, error.hint
    elif isinstance(error, KeyboardInterrupt):
        kind, message, hint = "KeyboardInterrupt", "", None
    else:
        kind, hint = "RankLostError", _RESUME
        message = f"rank {rank} failed: {first_line(error)}"
    return json.dumps({"kind": kind, "message": message, "hint": hint})


def _note(ranks: Ranks) -> BaseException | None:
    """Return the error that a rank has left for the others."""
    assert ranks.store is not None
    try:
        if not ranks.store.check([_ERROR]):
            return None
        note = json.loads(ranks.store.get(_ERROR))
    except RuntimeError:
        return None
    if note["kind"] == "KeyboardInterrupt":
        return KeyboardInterrupt()
    known = {name: getattr(errors, name) for name in errors.__all__}
    kind: type[GraphpruneError] = known.get(note["kind"], GraphpruneError)
    return kind(note["message"], hint=note["hint"])
