"""Checkpoints: what long work has found so far, so that it can be taken up again.

The state of a run is one ``.npz`` file, written whole or not at all, and not more often than every
two seconds. It names what it was made from: the model, the data and all settings. A run that takes
it up must be made from the same, and then ends with exactly what the uninterrupted run would have
found. Parts of the work (the groups of a network, say) keep their states side by side.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from graphprune.distributed import ALONE, Ranks
from graphprune.errors import ArtifactError
from graphprune.files import replacing, unreachable

FORMAT = "graphprune/state/1"

EVERY = 2.0
"""Seconds between two writes."""

MAX_SHARE = 0.05
"""Largest share of the time that writing may take; large states are written less often."""

Arrays = Mapping[str, npt.NDArray[np.generic]]

_IDENTITY = "identity"
_SEPARATOR = "|"


class State(Protocol):
    """Where one part of the work keeps what it has found."""

    def load(self, like: Arrays) -> Arrays | None:
        """Return the arrays last written by the run that is taken up; None if there are none.

        Args:
            like: Arrays of the names, shapes and dtypes that are expected; one that has no rows
                stands for any number of rows.
        """

    def save(self, arrays: Arrays) -> None:
        """Offer everything needed to go on from here; it is written if it is time to."""


@dataclass(frozen=True)
class NoState:
    """Keeps nothing."""

    def load(self, like: Arrays) -> Arrays | None:  # noqa: ARG002 - a State's signature
        """Return nothing."""
        return None

    def save(self, arrays: Arrays) -> None:
        """Keep nothing."""


NO_STATE = NoState()


@dataclass(frozen=True, kw_only=True)
class StateStore:
    """The file that holds the state of a run.

    Args:
        path: The file.
        model: Hash of the model.
        resume: Take up what the file holds; else the file is replaced by the first write.
        every: Seconds between two writes.
        ranks: The processes that work together; the leading one alone reads and writes.
    """

    path: Path
    model: str
    resume: bool = False
    every: float = EVERY
    ranks: Ranks = ALONE

    def open(self, *, data: str, settings: Mapping[str, object]) -> Checkpoint:
        """Return the state of a run made from this model, these data and settings.

        Args:
            data: Hash of the calibration data.
            settings: Everything else that the result depends on.

        Raises:
            ArtifactError: The file is damaged, or was made from something else; says which.
        """
        identity = {
            "format": FORMAT,
            "model": self.model,
            "data": data,
            **{name: str(value) for name, value in settings.items()},
        }
        self.ranks.check_same("what the state is made from", json.dumps(identity))
        found = self.ranks.led(lambda: self._found(identity))
        path = self.path if self.ranks.leads else None
        return Checkpoint(path, identity, found, self.every)

    def clear(self) -> None:
        """Delete the file: the work is done."""
        if self.ranks.leads:
            self.path.unlink(missing_ok=True)

    def _found(self, identity: Mapping[str, str]) -> dict[str, Arrays]:
        there = self.path.exists() if unreachable(self.path) is None else True
        return self._read(identity) if self.resume and there else {}

    def _read(self, identity: Mapping[str, str]) -> dict[str, Arrays]:
        try:
            arrays = _arrays_of(self.path)
            recorded = json.loads(str(arrays.pop(_IDENTITY)))
        except Exception as error:  # zipfile, numpy and json raise unrelated types
            raise ArtifactError(
                f"{self.path} is damaged: {error}", hint="start anew, without --resume"
            ) from error
        self._check(recorded, identity)
        parts: dict[str, dict[str, npt.NDArray[np.generic]]] = {}
        for name, array in arrays.items():
            part, _, key = name.rpartition(_SEPARATOR)
            parts.setdefault(part, {})[key] = array
        return dict(parts)

    def _check(self, recorded: object, identity: Mapping[str, str]) -> None:
        if not isinstance(recorded, dict) or recorded.get("format") != FORMAT:
            found = recorded.get("format") if isinstance(recorded, dict) else recorded
            raise ArtifactError(
                f"{self.path} has format {found!r}, this version reads {FORMAT!r}",
                hint="start anew, without --resume",
            )
        for name in sorted({*recorded, *identity}):
            before, now = recorded.get(name), identity.get(name)
            if before != now:
                raise ArtifactError(
                    f"{self.path} cannot be taken up: {_difference(name, before, now)}",
                    hint="use what the interrupted run used, or start anew, without --resume",
                )


def _difference(name: str, before: object, now: object) -> str:
    if name == "model":
        return "the model has changed since"
    if name == "data":
        return "the calibration data have changed since"
    if name.endswith("source"):
        return f"the {name} has changed since"
    return f"{name} was {before} and is {now}"


@dataclass
class Checkpoint:
    """The state of one run, in parts.

    Args:
        path: Where it is written; None for nowhere.
        identity: What the run is made from.
        parts: Arrays by part and name.
        every: Seconds between two writes.
        clock: Tells the time in seconds.
    """

    path: Path | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    parts: dict[str, Arrays] = field(default_factory=dict)
    every: float = EVERY
    clock: Callable[[], float] = time.monotonic
    _due: float = field(init=False)

    def __post_init__(self) -> None:
        self._due = self.clock() + self.every

    def part(self, name: str) -> Part:
        """Return the state of one part of the work."""
        return Part(self, name)

    def get(self, name: str, like: Arrays) -> Arrays | None:
        """Return the arrays of a part, if it has any.

        Raises:
            ArtifactError: They are not like those expected.
        """
        found = self.parts.get(name)
        if found is not None and not _fits(found, like):
            raise ArtifactError(
                f"{self.path} is damaged: the state of {name!r} does not fit this run",
                hint="start anew, without --resume",
            )
        return found

    def write_if_due(self, parts: Mapping[str, Arrays]) -> None:
        """Write ``parts``, unless the last write was just now.

        What is written is a copy, so the arrays may change under the next step.
        """
        if self.path is None or self.clock() < self._due:
            return
        start = self.clock()
        _write(self.path, self.identity, parts)
        took = self.clock() - start
        self._due = self.clock() + (max(self.every, took / MAX_SHARE) if self.every else 0.0)


@dataclass(frozen=True)
class Part:
    """The state of one part of the work: what is known so far, or its result.

    Args:
        checkpoint: The state of the whole run.
        name: The part.
    """

    checkpoint: Checkpoint
    name: str

    def load(self, like: Arrays) -> Arrays | None:
        """Return the arrays last written by the run that is taken up; None if there are none."""
        return self.checkpoint.get(f"work on {self.name}", like)

    def save(self, arrays: Arrays) -> None:
        """Offer everything needed to go on from here; it is written if it is time to."""
        self.checkpoint.write_if_due({**self.checkpoint.parts, f"work on {self.name}": arrays})

    def result(self, like: Arrays) -> Arrays | None:
        """Return the part's result, if the run that is taken up got that far."""
        return self.checkpoint.get(f"result of {self.name}", like)

    def finish(self, arrays: Arrays) -> None:
        """Keep the part's result in place of what led to it."""
        self.checkpoint.parts.pop(f"work on {self.name}", None)
        self.checkpoint.parts[f"result of {self.name}"] = dict(arrays)
        self.checkpoint.write_if_due(self.checkpoint.parts)


def _arrays_of(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    # Opened here: numpy would leave a file that is no archive open.
    with path.open("rb") as handle:
        if not zipfile.is_zipfile(handle):
            raise ValueError("it is no archive")
        with zipfile.ZipFile(handle) as packed:
            # Written uncompressed: nothing unpacks to more than is there.
            if any(info.compress_type != zipfile.ZIP_STORED for info in packed.infolist()):
                raise ValueError("it is compressed")
        handle.seek(0)
        with np.load(handle, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def _fits(found: Arrays, like: Arrays) -> bool:
    return found.keys() == like.keys() and all(
        array.dtype == found[name].dtype
        and array.ndim == found[name].ndim
        and (array.shape[1:] if array.ndim and not len(array) else array.shape)
        == (found[name].shape[1:] if array.ndim and not len(array) else found[name].shape)
        for name, array in like.items()
    )


def _write(path: Path, identity: Mapping[str, str], parts: Mapping[str, Arrays]) -> None:
    arrays: dict[str, npt.NDArray[np.generic]] = {
        f"{part}{_SEPARATOR}{key}": array
        for part, listed in parts.items()
        for key, array in listed.items()
    }
    arrays[_IDENTITY] = np.array(json.dumps(dict(identity)))
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)
