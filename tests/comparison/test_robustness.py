"""Layerwise robustness against removing units one by one from the network itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphprune.comparison import layerwise_robustness
from graphprune.comparison.robustness import Curve, removal_counts
from graphprune.data import as_batches
from graphprune.errors import OptionError
from graphprune.graph import DependencyGraph, trace
from graphprune.surgery import cut

IMAGES = torch.randn(12, 6, generator=torch.Generator().manual_seed(1)).double()
LABELS = torch.arange(12) % 4


def network(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, classes)]
    return nn.Sequential(*layers).double().eval()


def graph_of(classes: int = 4) -> DependencyGraph:
    return trace(network(classes), (IMAGES[:2],))


def logits_without(graph: DependencyGraph, name: str, gone: np.ndarray) -> torch.Tensor:
    kept = graph.all_kept()
    kept[graph.group(name).first + gone] = False
    return cut(graph, kept)(IMAGES).detach()


def test_curves_are_those_of_networks_cut_in_that_order() -> None:
    graph = graph_of()
    scores = np.random.default_rng(0).standard_normal(graph.n_units)
    (found,) = layerwise_robustness(graph, as_batches((IMAGES, LABELS)), [scores])
    assert [curve.group for curve in found.curves] == [group.name for group in graph.groups]
    for curve in found.curves:
        assert curve.removed == tuple(range(curve.units))
        order = np.argsort(scores[graph.group(curve.group).span])
        for count, loss, right in zip(curve.removed, curve.loss, curve.right or (), strict=True):
            logits = logits_without(graph, curve.group, order[:count])
            assert loss == pytest.approx(float(F.cross_entropy(logits, LABELS)), rel=1e-6)
            expected = float((logits.argmax(-1) == LABELS).double().mean())
            assert right == pytest.approx(expected)


def test_without_labels_the_unpruned_network_is_what_is_right() -> None:
    graph = graph_of()
    scores = np.arange(graph.n_units, dtype=float)
    (found,) = layerwise_robustness(graph, as_batches(IMAGES), [scores])
    p = network()(IMAGES).log_softmax(-1).detach()
    curve = found.curves[0]
    q = logits_without(graph, curve.group, np.arange(3)).log_softmax(-1)
    assert curve.loss[0] == pytest.approx(0, abs=1e-9)
    assert curve.loss[3] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-6)
    assert curve.right is not None
    assert curve.right[0] == 1
    assert curve.right[3] == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))


def test_the_better_order_has_the_lower_area() -> None:
    graph = graph_of()
    data = as_batches((IMAGES, LABELS))
    # Units that read nothing and say nothing can go first without loss.
    weight = graph.program.module.get_parameter("0.weight")
    bias = graph.program.module.get_parameter("0.bias")
    with torch.no_grad():
        weight[:4], bias[:4] = 0, 0
    good, bad = np.ones(graph.n_units), np.zeros(graph.n_units)
    first = graph.group("0.weight").first
    good[first : first + 4], bad[first : first + 4] = 0, 1
    better, worse = layerwise_robustness(graph, data, [good, bad], groups=["0.weight"])
    assert len(better.curves) == 1
    np.testing.assert_allclose(better.curves[0].increase[:5], 0, atol=1e-12)
    assert abs(worse.area) > abs(better.area)


def test_area_and_loss_per_unit() -> None:
    curve = Curve(group="g", units=5, removed=(0, 1, 2, 4), loss=(1, 2, 4, 4), right=None)
    assert curve.fractions == (0, 0.2, 0.4, 0.8)
    assert curve.area == pytest.approx((0.5 + 2 + 2 * 3) / 4)
    assert curve.per_unit == pytest.approx((1 + 3 / 2 + 3 / 4) / 3)


def test_one_output_has_nothing_right() -> None:
    graph = graph_of(classes=1)
    (found,) = layerwise_robustness(graph, as_batches(IMAGES), [np.zeros(graph.n_units)])
    assert all(curve.right is None for curve in found.curves)


@pytest.mark.parametrize(
    ("units", "points", "expected"),
    [(2, 20, [0, 1]), (5, 20, [0, 1, 2, 3, 4]), (101, 4, [0, 25, 50, 75, 100]), (9, 1, [0, 8])],
)
def test_points_are_spread_evenly(units: int, points: int, expected: list[int]) -> None:
    assert removal_counts(units, points).tolist() == expected


def test_too_few_points_are_refused() -> None:
    graph = graph_of()
    with pytest.raises(OptionError, match="0 points make no curve"):
        layerwise_robustness(graph, as_batches(IMAGES), [np.zeros(graph.n_units)], points=0)
    with pytest.raises(OptionError, match="no group has two units"):
        layerwise_robustness(graph, as_batches(IMAGES), [np.zeros(graph.n_units)], groups=[])
