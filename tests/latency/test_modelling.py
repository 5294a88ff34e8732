"""Models predict the layers of networks that are really cut, from a timer that keeps to a rule."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from graphprune.cost import CostModel
from graphprune.graph import DependencyGraph, Kept, trace
from graphprune.latency import model_latency
from graphprune.latency.kernels import kernel_seconds
from graphprune.latency.layers import LayerShape, layers_of
from graphprune.surgery import cut
from tests.helpers import random_kept
from tests.networks import NETWORKS
from tests.traced import traced

NAMES = (
    "MLP", "Conv1d", "Conv3d", "Residual", "PaddedShortcut", "Concat", "Split", "Depthwise",
    "GroupedWhole", "GroupedColumns", "SqueezeExcite",
)  # fmt: skip


def steady(shape: LayerShape) -> float:
    """Return a time that grows with the weights and has a part that stays."""
    return 1e-6 + 1e-9 * shape.entries * math.prod(shape.positions)


def alone(graph: DependencyGraph, timer: Callable[[LayerShape], float]) -> float:
    return sum(timer(layer.shape) * layer.repeats for layer in layers_of(graph).values())


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_network_takes_what_its_layers_take(name: str) -> None:
    graph = traced(name)
    model = model_latency(graph, alone(graph, steady), threads=1, timer=steady)
    costs = CostModel(graph, model)
    for seed in (0, 1):
        kept = random_kept(graph, 0.4, seed)
        smaller = trace(cut(graph, kept), NETWORKS[name].inputs())
        assert costs.total(kept).of("latency") == pytest.approx(alone(smaller, steady), rel=1e-6)


@pytest.mark.parametrize("name", [*NAMES, "PackedAttention", "Windows", "Einsum", "Transposed"])
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_whole_network_takes_what_was_measured(name: str, factor: float) -> None:
    """Whether layers alone take longer than the network or leave something over."""
    graph = traced(name)
    whole = factor * alone(graph, steady)
    model = model_latency(graph, whole, threads=1, timer=steady)
    costs = CostModel(graph, model)
    assert costs.total(graph.all_kept()).of("latency") == pytest.approx(whole, rel=1e-6)
    kept: Kept = random_kept(graph, 0.4, 0)
    assert 0 < costs.total(kept).of("latency") <= whole
    assert (costs.marginal("latency") >= 0).all()


def test_groups_have_widths_that_their_layers_like() -> None:
    graph = traced("Residual")  # groups of 8 and 6, of which each makes and reads convolutions

    def blocks_of_four(shape: LayerShape) -> float:
        return -(-shape.outputs // 4) * 1e-6

    model = model_latency(graph, 1.0, threads=1, timer=blocks_of_four)
    assert dict(model.widths) == {graph.groups[0].name: (4, 8), graph.groups[1].name: (4, 6)}


def test_heads_count_the_columns_that_go_with_them() -> None:
    graph = traced("PackedAttention")

    def blocks_of_four(shape: LayerShape) -> float:
        return -(-shape.outputs // 4) * -(-shape.inputs // 4) * 1e-6

    model = model_latency(graph, 1.0, threads=1, timer=blocks_of_four)
    for group in graph.groups:
        entries = np.bincount(group.members[0].units[group.members[0].units >= group.first])
        columns = int(entries[group.first])
        assert all(w * columns % 4 == 0 for w in model.widths[group.name][:-1])


def test_the_machine_is_really_timed() -> None:
    convolution = LayerShape(
        kind="convolution",
        inputs=8,
        outputs=16,
        positions=(9, 9),
        kernel=(3, 3),
        stride=(2, 2),
        padding=(1, 1),
        dilation=(1, 1),
    )
    product = LayerShape(kind="product", inputs=8, outputs=16, positions=(5,))
    for shape in (convolution, convolution.resized(8, 8), product):
        assert 0 < kernel_seconds(shape, samples=2, threads=1, runs=2) < 1
