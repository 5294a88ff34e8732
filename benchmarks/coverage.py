"""Which networks does graphprune understand, and is what it cuts exact?

Every network is built with random weights, analysed, and pruned of 30 % of the units of every
group at random, in a process of its own with a time and a memory limit:

    python benchmarks/coverage.py --out coverage.jsonl
    python benchmarks/coverage.py --out coverage.jsonl --table

Results are appended line by line; a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Lock
from typing import Any

from zoo.catalogue import FAMILIES, Network, networks
from zoo.worker import Task, work

Values = dict[str, Any]

_INTERRUPTED = 130

_PATIENCE = 4
"""Wall clock that a process may take, in units of its processor time."""

# Imported once, by the process that all others are forked from.
_PRELOADED = (
    "zoo.worker",
    "graphprune.api",
    "torch._dynamo",
    "torch._export",
    "torch.fx.experimental.symbolic_shapes",
)
_LIBRARIES = {
    "torchvision": "torchvision",
    "timm": "timm",
    "huggingface": "transformers",
    "detection": "torchvision",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, or print the table of a run."""
    options = parsed(arguments)
    rows = read(options.out)
    if options.table:
        from zoo.table import page

        print(page(rows))
        return 0
    done = {row["name"] for row in rows if is_good(row) or not options.retry}
    chosen = networks(options.family or FAMILIES, options.only)
    waiting = [network for network in chosen if options.again or network.key not in done]
    theirs = {row["name"]: row["torch_pruning"] for row in rows if "torch_pruning" in row}
    return Run(options, theirs).measure(waiting)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("coverage.jsonl"), help="results")
    parser.add_argument("--only", default="*", help="pattern of names, such as 'timm:vit*'")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="repeatable")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time")
    parser.add_argument("--timeout", type=int, default=600, help="processor seconds a network")
    parser.add_argument(
        "--torch-pruning-timeout", type=int, default=60, help="the same for torch-pruning"
    )
    parser.add_argument("--memory", type=float, default=20, help="GiB for one network")
    parser.add_argument("--retry", action="store_true", help="repeat what was not exact")
    parser.add_argument("--again", action="store_true", help="repeat what is there, too")
    parser.add_argument("--no-torch-pruning", action="store_true", help="keep its earlier results")
    parser.add_argument("--no-onnx", action="store_true", help="leave ONNX files out")
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    return parser.parse_args(arguments)


def read(path: Path) -> list[Values]:
    """Return the rows of a file of results, the last of each network."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return list({row["name"]: row for row in map(json.loads, lines)}.values())


def is_good(row: Values) -> bool:
    """Whether a network was pruned and exact."""
    return bool(row["status"] == "exact")


def summary(row: Values) -> str:
    """Return one line about a row."""
    told = {key: row[key] for key in ("units", "share", "masked_error", "error") if key in row}
    return f"{row['name']} {row['status']} {row['seconds']:.0f} s {told}"


@dataclass(frozen=True)
class Run:
    """One run over some networks.

    Args:
        options: The command line.
        theirs: What torch-pruning did in earlier runs, by network; it is kept when it is not run.
        lock: Held while a row is written.
        stopping: Set when the user interrupts; nothing is written any more.
    """

    options: argparse.Namespace
    theirs: dict[str, Values]
    lock: Lock = field(default_factory=Lock)
    stopping: Event = field(default_factory=Event)

    def measure(self, waiting: Sequence[Network]) -> int:
        """Measure the networks, the big ones alone after the others; return the exit code."""
        start_server(sorted({_LIBRARIES[network.family] for network in waiting}))
        for jobs, big in ((self.options.jobs, False), (1, True)):
            keys = [network.key for network in waiting if network.big == big]
            with ThreadPoolExecutor(jobs) as pool:
                try:
                    list(pool.map(self.one, keys))
                except KeyboardInterrupt:
                    self.stopping.set()
                    for process in mp.active_children():
                        process.kill()
                    pool.shutdown(cancel_futures=True)
                    return _INTERRUPTED
        return 0

    def one(self, key: str) -> None:
        """Measure one network with both tools, each in a process of its own; write its row."""
        begun, options = time.monotonic(), self.options
        memory = int(options.memory * 2**30)
        ours = Task(key, "graphprune", memory, options.timeout, onnx=not options.no_onnx)
        row: Values = {"name": key, "status": "failed"}
        row |= in_process(ours)
        if key in self.theirs:
            row["torch_pruning"] = self.theirs[key]
        if not options.no_torch_pruning and not self.stopping.is_set():
            statistics = bool(row.get("statistics", 1))
            limit = options.torch_pruning_timeout
            theirs = Task(key, "torch-pruning", memory, limit, statistics=statistics)
            row["torch_pruning"] = in_process(theirs)
        self.write(row | {"seconds": round(time.monotonic() - begun, 1)})

    def write(self, row: Values) -> None:
        """Append one row to the results."""
        with self.lock:
            if not self.stopping.is_set():
                with self.options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(summary(row), file=sys.stderr, flush=True)


# ---- processes ----------------------------------------------------------------------------------


def start_server(libraries: Sequence[str]) -> None:
    """Prepare the process from which all others are forked, with the heavy imports done."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a second core serves a second job
    # The server does not take over sys.path, only the environment.
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    mp.get_context("forkserver").set_forkserver_preload([*_PRELOADED, *libraries])


def in_process(task: Task) -> Values:
    """Run one task; return what it told until it ended or was ended."""
    context = mp.get_context("forkserver")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(task, writer))
    process.start()
    writer.close()
    # Processor time is what is limited; a process that waits for ever is ended some time, too.
    values = collected(reader, time.monotonic() + _PATIENCE * task.seconds)
    late = values.pop("late", False)
    if late:
        process.kill()
    process.join()
    if late or process.exitcode == -signal.SIGXCPU:
        values |= {"status": "timeout", "error": f"over {task.seconds} s"}
    elif process.exitcode:
        values |= {"status": "failed", "error": f"the process ended with {process.exitcode}"}
    return values


def collected(reader: Connection, deadline: float) -> Values:
    """Gather what a process tells until it closes its end, or until the deadline."""
    values: Values = {}
    while True:
        if not reader.poll(max(deadline - time.monotonic(), 0)):
            return values | {"late": True}
        try:
            values |= reader.recv()
        except EOFError:
            return values


if __name__ == "__main__":
    sys.exit(main())
