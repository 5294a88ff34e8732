"""Data: from what the user typed after ``--data``, or gave in Python, to calibration batches."""

from graphprune.data.batches import Batch, CalibrationBatches, as_batches, synthetic
from graphprune.data.check import check_against
from graphprune.data.reader import load_data
from graphprune.data.source import DataSource

__all__ = [
    "Batch",
    "CalibrationBatches",
    "DataSource",
    "as_batches",
    "check_against",
    "load_data",
    "synthetic",
]
