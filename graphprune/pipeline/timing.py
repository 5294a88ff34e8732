"""Seconds by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Time one stage; a stage that fails has no time."""
    start = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - start
