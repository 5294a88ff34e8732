"""Build: the network that a coalition stands for, cut and repaired."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from graphprune.data import CalibrationBatches
from graphprune.game.evaluation import MEMORY
from graphprune.graph import DependencyGraph, Kept
from graphprune.progress import Progress, silent
from graphprune.repairs import RepairResult, repair_in_place
from graphprune.surgery import PrunedModel, cut, cut_tensors


@dataclass(frozen=True, kw_only=True)
class Repairing:
    """How networks are repaired, see :func:`graphprune.repairs.repair`.

    Args:
        method: ``auto`` or another method; ``auto`` is ``none`` where there is no data.
        seed: Seed of everything random.
        max_memory: Bytes that activations may take.
        progress: Told about every step.
    """

    method: str = "auto"
    seed: int = 0
    max_memory: int = MEMORY
    progress: Progress = field(default=silent)


def build(
    graph: DependencyGraph, kept: Kept, data: CalibrationBatches | None, repairing: Repairing
) -> RepairResult:
    """Cut a network and repair it.

    Args:
        graph: The traced network; it is not changed.
        kept: For every unit whether it is kept.
        data: Calibration images, if there are any.
        repairing: How to repair.

    Raises:
        SurgeryError: ``kept`` does not fit the graph or would leave an axis empty.
        DataError: The method needs images and there are none, or they do not fit.
    """
    return repaired(graph, kept, cut(graph, kept), data, repairing)


def repaired(
    graph: DependencyGraph,
    kept: Kept,
    smaller: PrunedModel,
    data: CalibrationBatches | None,
    repairing: Repairing,
) -> RepairResult:
    """Repair a cut network, which becomes that of the result.

    Args:
        graph: What it was cut from.
        kept: For every unit whether it is kept.
        smaller: The network, as it was cut.
        data: Calibration images, if there are any.
        repairing: How to repair.

    Raises:
        OptionError: There is no such method.
        DataError: It needs images and there are none, or they do not fit.
    """
    method = "none" if repairing.method == "auto" and data is None else repairing.method
    return repair_in_place(
        smaller,
        partial(cut_tensors, graph, kept),
        data,
        method,
        seed=repairing.seed,
        max_memory=repairing.max_memory,
        progress=repairing.progress,
    )
