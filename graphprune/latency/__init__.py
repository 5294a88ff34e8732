"""Latency: how fast ONNX files are in onnxruntime, and how fast smaller networks would be."""

from graphprune.latency.intervals import Interval, median_interval
from graphprune.latency.modelling import model_latency
from graphprune.latency.timing import Bench, BenchOptions, FileLatency, bench, usable_cores

__all__ = [
    "Bench",
    "BenchOptions",
    "FileLatency",
    "Interval",
    "bench",
    "median_interval",
    "model_latency",
    "usable_cores",
]
