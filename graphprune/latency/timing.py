"""How fast ONNX files are in onnxruntime: timed in turn, so that whatever disturbs hits all alike.

The machine's speed drifts: clocks, caches, neighbours. Files are therefore run in turn, each round
in the opposite order of the one before, and the speed-up is the median of the ratios *within* a
round, from which slow drifts cancel.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphprune.errors import ArtifactError, OptionError, first_line
from graphprune.latency.feeds import Feed, Shape, feed_for
from graphprune.latency.intervals import Interval, median_interval
from graphprune.progress import Progress, silent
from graphprune.runtime import Session, open_session

_WARM_UP = 3
"""Rounds that are not counted: memory is laid out and caches fill."""

_FEWEST = 11
"""Rounds that are run even when the time is over, or no interval would mean anything."""

_SECONDS = 5.0
"""Time for all rounds where nothing else is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchOptions:
    """How to time files.

    Args:
        threads: Threads that one operator may use; None for the cores that this process may use.
        batch: Samples in a run; None for one, or for what the file fixes.
        shapes: Shapes of inputs without the batch, where the file does not declare them.
        provider: ``auto``, ``cpu`` or ``cuda``.
        runs: Rounds at most; None for as many as the time allows.
        seconds: Time for all rounds; None for 5, or for no limit where ``runs`` is given. 11 rounds
            are run even if they take longer, unless fewer are asked for.
    """

    threads: int | None = None
    batch: int | None = None
    shapes: tuple[Shape, ...] = ()
    provider: str = "auto"
    runs: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class FileLatency:
    """How fast one file is.

    Args:
        path: The file.
        size: Its bytes.
        seconds: Of one run.
        provider: What it really ran on: ``cpu`` or ``cuda``.
    """

    path: Path
    size: int
    seconds: Interval
    provider: str


@dataclass(frozen=True, slots=True)
class Bench:
    """How fast files are, measured in turn.

    Args:
        files: The files as given.
        speedups: Of every file but the first, how many times faster than the first it is.
        threads: Threads that one operator might use.
        batch: Samples in a run.
        provider: The provider asked for.
    """

    files: tuple[FileLatency, ...]
    speedups: tuple[Interval, ...]
    threads: int
    batch: int
    provider: str

    @property
    def as_asked(self) -> bool:
        """Whether every file ran on the provider asked for."""
        return self.provider == "auto" or all(f.provider == self.provider for f in self.files)


def bench(
    paths: Sequence[Path | str], options: BenchOptions | None = None, progress: Progress = silent
) -> Bench:
    """Time ONNX files in onnxruntime, in turn.

    On CUDA the copies of inputs to the GPU and of outputs back are counted.

    Args:
        paths: One file or more; the first is what the others are compared with.
        options: How to time them.
        progress: Told about every round, in rounds or in seconds, whichever ends the work.

    Raises:
        ArtifactError: A file is missing, damaged or does not run.
        OptionError: An option is not allowed, or an input's shape is unknown.
    """
    options = BenchOptions() if options is None else options
    _check(options)
    threads = usable_cores() if options.threads is None else options.threads
    files = [Path(path) for path in paths]
    sessions = [open_session(path, options.provider, threads=threads) for path in files]
    runners = [_Runner(path, s, options) for path, s in zip(files, sessions, strict=True)]
    rounds = _timed(runners, options, progress)
    return Bench(
        files=tuple(
            FileLatency(
                path=path,
                size=path.stat().st_size,
                seconds=median_interval(rounds[:, place]),
                provider=session.provider,
            )
            for place, (path, session) in enumerate(zip(files, sessions, strict=True))
        ),
        speedups=tuple(
            median_interval(rounds[:, 0] / rounds[:, place]) for place in range(1, len(files))
        ),
        threads=threads,
        batch=runners[0].batch,
        provider=options.provider,
    )


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(options: BenchOptions) -> None:
    for name, count in (
        ("threads", options.threads), ("batch", options.batch), ("runs", options.runs)
    ):  # fmt: skip
        if count is not None and count < 1:
            raise OptionError(f"{name} {count} is less than 1", hint="give a positive number")
    if options.seconds is not None and not options.seconds > 0:
        raise OptionError(f"seconds {options.seconds:g} is no time", hint="give a positive number")


class _Runner:
    """One file with inputs."""

    def __init__(self, path: Path, session: Session, options: BenchOptions) -> None:
        self._path = path
        self._session: Any = session.session
        self._feed: Feed = feed_for(
            self._session, batch=options.batch, shapes=options.shapes, name=str(path)
        )

    @property
    def batch(self) -> int:
        """Samples in a run."""
        return next((value.shape[0] for value in self._feed.values() if value.ndim), 1)

    def seconds(self) -> float:
        """Run once and return how long it took.

        Raises:
            ArtifactError: onnxruntime fails on it.
        """
        start = time.perf_counter()
        try:
            self._session.run(None, self._feed)
        except Exception as error:  # onnxruntime's errors have no common base
            raise ArtifactError(
                f"{self._path} does not run on random inputs: {first_line(error)}",
                hint="give the inputs' shapes without the batch, e.g. --input-shape 3,224,224",
            ) from error
        return time.perf_counter() - start


def _seconds(options: BenchOptions) -> float:
    if options.seconds is not None:
        return options.seconds
    return _SECONDS if options.runs is None else math.inf


def _timed(
    runners: list[_Runner], options: BenchOptions, progress: Progress
) -> npt.NDArray[np.float64]:
    """Return the seconds of every run, (rounds, files)."""
    for _ in range(_WARM_UP):
        for runner in runners:
            runner.seconds()
    rounds: list[list[float]] = []
    most = sys.maxsize if options.runs is None else options.runs
    start, limit = time.perf_counter(), _seconds(options)
    while len(rounds) < most and (len(rounds) < _FEWEST or time.perf_counter() < start + limit):
        # Every second round goes backward, so that no file always runs right behind another.
        backward = len(rounds) % 2 == 1
        times = [runner.seconds() for runner in (runners[::-1] if backward else runners)]
        rounds.append(times[::-1] if backward else times)
        if options.runs is not None:
            progress("bench", len(rounds), options.runs)
        else:
            progress("bench", min(int(time.perf_counter() - start), int(limit)), int(limit))
    return np.array(rounds)
