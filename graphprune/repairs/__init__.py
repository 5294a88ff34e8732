"""Repair: weights of a pruned network refitted to calibration images, without labels or SGD.

One method a file; importing this package registers them all.
"""

from graphprune.repairs import (  # noqa: F401 - registers the methods
    auto,
    batchnorm,
    distill,
    least_squares,
    none,
)
from graphprune.repairs.registry import (
    LayerGain,
    RepairJob,
    RepairResult,
    available,
    repair,
    repair_in_place,
)

__all__ = ["LayerGain", "RepairJob", "RepairResult", "available", "repair", "repair_in_place"]
