"""Repair: weights of a pruned network refitted to calibration images, without labels or SGD.

One method a file; importing this package registers them all.
"""

from graphprune.repairs import batchnorm, none  # noqa: F401 - registers the methods
from graphprune.repairs.registry import RepairJob, RepairResult, available, repair

__all__ = ["RepairJob", "RepairResult", "available", "repair"]
