"""Structured pruning of PyTorch networks by Shapley values.

::

    import graphprune as gp

    graph = gp.trace(model, (example,))
    ranking = gp.rank(graph, data)
    plan = gp.select(ranking, ratio=0.3)
    pruned = gp.prune(graph, plan)
    gp.export_onnx(pruned, "pruned.onnx")
    assert gp.validate(pruned, "pruned.onnx").ok
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphprune.api import (
        choose,
        compare,
        exchange,
        export_onnx,
        latency_model,
        mask,
        prune,
        prune_optimizer,
        rank,
        repair,
        select,
        select_in_steps,
        trace,
        validate,
        weigh,
    )
    from graphprune.candidates import Choice
    from graphprune.comparison import Comparison
    from graphprune.cost import LatencyModel
    from graphprune.couplings import coupling_graph
    from graphprune.data import CalibrationBatches, DataSource, load_data
    from graphprune.exchanging import Exchanged
    from graphprune.groups import PruningGroup, Unit
    from graphprune.latency import Bench, BenchOptions, bench
    from graphprune.load import LoadedModel, ModelSource, load_model
    from graphprune.ranking import Ranking
    from graphprune.selection import PruningPlan
    from graphprune.steps import Stepped
    from graphprune.verify import ValidationReport
    from graphprune.weighing import Weighed

__version__ = "0.1.0"

# Importing torch takes a second, so names are looked up when they are first used.
_HOMES = {
    "Bench": "graphprune.latency",
    "BenchOptions": "graphprune.latency",
    "CalibrationBatches": "graphprune.data",
    "Choice": "graphprune.candidates",
    "Comparison": "graphprune.comparison",
    "DataSource": "graphprune.data",
    "Exchanged": "graphprune.exchanging",
    "LatencyModel": "graphprune.cost",
    "LoadedModel": "graphprune.load",
    "ModelSource": "graphprune.load",
    "PruningGroup": "graphprune.groups",
    "PruningPlan": "graphprune.selection",
    "Ranking": "graphprune.ranking",
    "Stepped": "graphprune.steps",
    "Unit": "graphprune.groups",
    "ValidationReport": "graphprune.verify",
    "Weighed": "graphprune.weighing",
    "bench": "graphprune.latency",
    "choose": "graphprune.api",
    "compare": "graphprune.api",
    "coupling_graph": "graphprune.couplings",
    "exchange": "graphprune.api",
    "export_onnx": "graphprune.api",
    "latency_model": "graphprune.api",
    "load_data": "graphprune.data",
    "load_model": "graphprune.load",
    "mask": "graphprune.api",
    "prune": "graphprune.api",
    "prune_optimizer": "graphprune.api",
    "rank": "graphprune.api",
    "repair": "graphprune.api",
    "select": "graphprune.api",
    "select_in_steps": "graphprune.api",
    "trace": "graphprune.api",
    "validate": "graphprune.api",
    "weigh": "graphprune.api",
}

__all__ = [
    "Bench",
    "BenchOptions",
    "CalibrationBatches",
    "Choice",
    "Comparison",
    "DataSource",
    "Exchanged",
    "LatencyModel",
    "LoadedModel",
    "ModelSource",
    "PruningGroup",
    "PruningPlan",
    "Ranking",
    "Stepped",
    "Unit",
    "ValidationReport",
    "Weighed",
    "bench",
    "choose",
    "compare",
    "coupling_graph",
    "exchange",
    "export_onnx",
    "latency_model",
    "load_data",
    "load_model",
    "mask",
    "prune",
    "prune_optimizer",
    "rank",
    "repair",
    "select",
    "select_in_steps",
    "trace",
    "validate",
    "weigh",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graphprune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
