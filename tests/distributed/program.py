"""What every rank of the tests runs: one stage after the other, each with connections of its own.

Usage: RANK=... program.py FOLDER  Each rank writes what it saw, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphprune import distributed
from graphprune.checkpoint import StateStore
from graphprune.distributed import Ranks, connected, terminable
from graphprune.errors import DataError, GraphpruneError

ROWS = {
    "float64": (7, (3,), torch.float64),
    "bfloat16": (6, (2, 2), torch.bfloat16),
    "bool": (5, (4,), torch.bool),
    "int64 scalars": (8, (), torch.int64),
    "fewer than ranks": (1, (2,), torch.float32),
    "empty rows": (4, (0,), torch.float64),
    "none": (0, (3,), torch.float64),
}

Stage = Callable[[Ranks, Path], Any]


def rows_of(total: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    rows = torch.randn(total, *shape, generator=torch.Generator().manual_seed(total)) * 1e3
    if dtype.is_floating_point and rows.numel():
        rows.view(-1)[-1] = float("nan")
    return rows.to(dtype)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and one.numpy(force=True).tobytes() == other.numpy(force=True).tobytes()


def gathers(ranks: Ranks, folder: Path) -> Any:
    seen = {}
    for name, (total, shape, dtype) in ROWS.items():
        source = rows_of(total, shape, dtype)
        asked: list[int] = []

        def compute(share: range, source: Any = source, asked: Any = asked) -> torch.Tensor:
            asked.extend(share)
            return source[share.start : share.stop]

        found = ranks.gather(total, compute)
        if dtype == torch.bfloat16:
            found, source = found.view(torch.int16), source.view(torch.int16)
        seen[name] = {"same": same_bits(found, source), "asked": asked}
    return seen


def agrees(ranks: Ranks, folder: Path) -> Any:
    calls = []

    def lead() -> str:
        calls.append(ranks.rank)
        return f"of rank {ranks.rank}"

    def refuse() -> str:
        raise DataError("no good", hint="give better")

    ranks.check_same("the model", "equal")
    return {
        "agreed": ranks.agree({"rank": ranks.rank}),
        "led": ranks.led(lead),
        "calls": calls,
        "refused": error_of(lambda: ranks.led(refuse)),
        "differs": error_of(lambda: ranks.check_same("the model", str(ranks.rank == 1))),
    }


def error_of(step: Callable[[], object]) -> list[str | None]:
    try:
        step()
    except GraphpruneError as error:
        return [type(error).__name__, error.message, error.hint]
    return []


def state(ranks: Ranks, folder: Path) -> Any:
    """Only the leading rank has the file; it is the only one to write, too."""
    path = folder / f"of-{ranks.rank}" / "state.npz"
    store = StateStore(path=path, model="m", resume=True, every=0, ranks=ranks)
    arrays = {"x": np.arange(3.0)}
    checkpoint = store.open(data="d", settings={})
    before = checkpoint.part("p").load(arrays)
    checkpoint.part("p").save(arrays)
    after = store.open(data="d", settings={}).part("p").load(arrays)
    seen = {
        "before": before is None,
        "after": None if after is None else after["x"].tolist(),
        "written": path.exists(),
        "other data": error_of(lambda: store.open(data="e", settings={})),
        "differs": error_of(lambda: store.open(data=str(ranks.rank), settings={})),
    }
    if ranks.leads:
        path.write_bytes(b"no archive")
    seen["damaged"] = error_of(lambda: store.open(data="d", settings={}))
    store.clear()
    seen["cleared"] = not path.exists()
    return seen


def failing(how: Callable[[], object]) -> Stage:
    """One rank of three fails while it computes its share; then all must end."""

    def stage(ranks: Ranks, folder: Path) -> Any:
        def compute(share: range) -> torch.Tensor:
            if ranks.rank == 1:
                how()
            return torch.zeros(len(share), 2)

        return [ranks.gather(30, compute) for _ in range(3)] and "not reached"

    return stage


def refuse() -> None:
    raise DataError("no good", hint="give better")


def exhaust() -> None:
    raise MemoryError


def interrupt() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def vanish() -> None:
    os._exit(9)


STAGES: dict[str, Stage] = {
    "gather": gathers,
    "agree": agrees,
    "state": state,
    "refused": failing(refuse),
    "exhausted": failing(exhaust),
    "interrupted": failing(interrupt),
    "terminated": failing(terminate),
    "two": gathers,
    "lost": failing(vanish),
}


def port_of(stage: str, folder: Path, *, leads: bool) -> str:
    """Return a port that was free a moment ago; the leading rank chooses it, the others wait."""
    path = folder / f"port-{stage}"
    if leads:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            chosen = path.with_suffix(".chosen")
            chosen.write_text(str(probe.getsockname()[1]))
        chosen.rename(path)
    while not path.exists():
        time.sleep(0.01)
    return path.read_text()


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    for name, stage in STAGES.items():
        size = 2 if name == "two" else 3
        if rank >= size:
            continue
        port = port_of(name, folder, leads=rank == 0)
        os.environ |= {"MASTER_PORT": port, "WORLD_SIZE": str(size)}
        start = time.monotonic()
        seen: Any
        spoke = None
        try:
            with terminable(), connected() as ranks:
                seen = stage(ranks, folder)
        except (GraphpruneError, KeyboardInterrupt, MemoryError) as error:
            hint = getattr(error, "hint", None)
            seen = [type(error).__name__, str(error).partition("\nhint")[0], hint]
            spoke = ranks.speaks()
        seconds = time.monotonic() - start
        report = {"stage": name, "seen": seen, "spoke": spoke, "seconds": seconds}
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    distributed.PATIENCE = 2.0
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
