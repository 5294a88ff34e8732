"""Latency: how fast ONNX files are in onnxruntime."""

from graphprune.latency.intervals import Interval, median_interval
from graphprune.latency.timing import Bench, BenchOptions, FileLatency, bench, usable_cores

__all__ = [
    "Bench",
    "BenchOptions",
    "FileLatency",
    "Interval",
    "bench",
    "median_interval",
    "usable_cores",
]
