"""Measure: the timings of files as the manifest records them."""

from __future__ import annotations

from graphprune.artifacts import IntervalRecord, LatencyRecord
from graphprune.latency import Bench, Interval


def latency_record(measured: Bench) -> LatencyRecord:
    """Describe the timing of two files, the unpruned network's and the pruned one's."""
    before, after = measured.files
    return LatencyRecord(
        before=_interval_record(before.seconds),
        after=_interval_record(after.seconds),
        speedup=_interval_record(measured.speedups[0]),
        threads=measured.threads,
        batch=measured.batch,
        provider=after.provider,
    )


def _interval_record(interval: Interval) -> IntervalRecord:
    return IntervalRecord(
        median=interval.median, low=interval.low, high=interval.high, n=interval.n
    )
