"""Predictions: the last layer is fitted to them, as far as a prior lets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphprune.columns import linear_layers
from graphprune.data import as_batches
from graphprune.graph import DependencyGraph, trace
from graphprune.repairs import predictions, repair
from graphprune.repairs.lockstep import Walk, shelf
from graphprune.repairs.predictions import LastLayer, Predicted, Shift, readout_of
from graphprune.repairs.targets import Target
from graphprune.surgery import cut
from tests.helpers import random_kept, randomize

IMAGES = torch.randn(96, 3, 6, 6, generator=torch.Generator().manual_seed(5)).double()


class Head(nn.Module):
    """A small network with some last layer."""

    def __init__(self, head: nn.Module, end: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.first, self.head, self.end = nn.Conv2d(3, 8, 3), head, end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.head(self.first(x).relu()))


def pooled(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def made(head: nn.Module, end: Callable[[Tensor], Any] = lambda x: x) -> DependencyGraph:
    return trace(randomize(Head(head, end)).double().eval(), (IMAGES[:2],))


def last_of(graph: DependencyGraph) -> Target | None:
    module = graph.program.module
    layer = list(linear_layers(module))[-1]
    (node,) = (node for node in module.graph.nodes if node.name == layer)

    def shape_of(node: Any) -> tuple[int, ...] | None:
        value = graph.analysis.values.get((node.name, None))
        return None if value is None else value.shape

    return readout_of(node, graph, shape_of)


AFFINE = {
    "linear": (pooled(nn.Linear(8, 4)), lambda x: x),
    "norm and factor": (pooled(nn.Linear(8, 4), nn.BatchNorm1d(4)), lambda x: x / 2),
    "convolution": (nn.Sequential(nn.Conv2d(8, 4, 4), nn.Flatten()), lambda x: x),
    "segmentation": (nn.Conv2d(8, 4, 1), lambda x: x),
    "first of two": (pooled(nn.Linear(8, 4)), lambda x: (x, 1)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_predictions_that_are_affine_in_the_last_layer_are_found(name):
    found = last_of(made(*AFFINE[name]))
    assert found is not None
    assert next(iter(found.end.users)).op == "output"


OTHERS = {
    "softmax": (pooled(nn.Linear(8, 4)), lambda x: x.softmax(1)),
    "pooled after": (nn.Conv2d(8, 4, 1), lambda x: x.mean((2, 3))),
    "one output": (pooled(nn.Linear(8, 1)), lambda x: x),
    "read twice": (pooled(nn.Linear(8, 4)), lambda x: (x, x.exp())),
    "not the predictions": (pooled(nn.Linear(8, 4)), lambda x: (x.softmax(1), x)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_ends_are_left_to_least_squares(name):
    assert last_of(made(*OTHERS[name])) is None


def fitted(
    graph: DependencyGraph, reference: Tensor, *, weights: bool = True, max_memory: int = 1 << 30
) -> tuple[LastLayer, list[Predicted], Shift | None]:
    """Fit the last layer of a network to some logits."""
    module, readout = graph.program.module, last_of(graph)
    assert readout is not None
    layer = linear_layers(module)[readout.layer.name]
    with shelf(1 << 30) as kept, torch.no_grad():
        parts = IMAGES.split(40)
        walk = Walk(module, [(part,) for part in parts], {}, kept)
        walk.until(layer.node)
        last = LastLayer(layer, readout, module, shift=layer.bias is not None)
        logits = reference.split(40)
        batches = [Predicted(walk.lookup(number), each) for number, each in enumerate(logits)]
        found = last.fitted(batches, weights=weights, max_memory=max_memory)
        return last, batches, found


LOGITS = 2 * torch.randn(96, 1, 4, generator=torch.Generator().manual_seed(2)).double()


def test_the_fit_is_the_minimum_of_the_divergence_with_the_prior():
    graph = made(pooled(nn.Linear(8, 4)))
    last, batches, found = fitted(graph, LOGITS)
    assert found is not None
    assert found.weight is not None
    assert found.bias is not None
    tensors = dict(graph.program.module.named_parameters())
    with torch.no_grad():
        stem = F.conv2d(IMAGES, tensors["first.weight"], tensors["first.bias"]).relu()
        features = stem.mean((2, 3))
    weight, bias = tensors["head.2.weight"].detach(), tensors["head.2.bias"].detach()
    before = float(last.divergences(batches).mean())
    change = torch.cat([found.weight, found.bias[:, None]], 1).requires_grad_()

    def objective(change: Tensor) -> Tensor:
        logits = features @ (weight + change[:, :-1]).T + bias + change[:, -1]
        expected = LOGITS[:, 0].log_softmax(1)
        divergence = F.kl_div(logits.log_softmax(1), expected, reduction="sum", log_target=True)
        size = 8 * features.square().mean()
        prior = size * change[:, :-1].square().sum() + change[:, -1].square().sum()
        return divergence + prior / (2 * before)

    (slope,) = torch.autograd.grad(objective(change), change)
    start = torch.zeros_like(change).requires_grad_()
    (first,) = torch.autograd.grad(objective(start), start)
    assert slope.abs().max() < 1e-3 * first.abs().max()


def test_what_is_nearly_right_moves_little():
    graph = made(pooled(nn.Linear(8, 4)))
    with torch.no_grad():
        right = graph.program.module(IMAGES)[:, None]
    moved = []
    for noise in (0.0, 0.1, 1.0):
        *_, found = fitted(graph, right + noise * LOGITS)
        assert found is not None
        assert found.bias is not None
        moved.append(float(found.bias.abs().max()))
    assert moved[0] < 1e-6
    assert moved[0] < moved[1] < 0.1 * moved[2]


@pytest.mark.parametrize("head", [pooled(nn.Linear(8, 4)), nn.Conv2d(8, 4, 1)])
def test_the_fit_lowers_the_divergence_and_the_layer_changes_in_place(head):
    shape = (96, 1, 4) if isinstance(head, nn.Sequential) else (96, 16, 4)
    reference = torch.randn(shape, generator=torch.Generator().manual_seed(3)).double()
    last, batches, found = fitted(made(head), reference)
    assert found is not None
    before, after = last.divergences(batches), last.divergences(batches, found)
    assert after.mean() < before.mean()
    last.add(found)
    torch.testing.assert_close(last.divergences(batches), after)


def test_where_the_weight_would_take_too_much_the_bias_alone_is_fitted(monkeypatch):
    monkeypatch.setattr(predictions, "ALWAYS_ALLOWED", 0)
    *_, found = fitted(made(pooled(nn.Linear(8, 400))), LOGITS.repeat(1, 1, 100))
    assert found is not None
    assert found.weight is None
    assert found.bias is not None
    wide = pooled(nn.Linear(8, 400, bias=False))
    *_, found = fitted(made(wide), LOGITS.repeat(1, 1, 100))
    assert found is None


def test_without_memory_for_the_logits_nothing_is_fitted():
    *_, found = fitted(made(pooled(nn.Linear(8, 4))), LOGITS, max_memory=1000)
    assert found is None


def test_a_bias_alone_is_fitted_where_only_biases_may_change():
    *_, found = fitted(made(pooled(nn.Linear(8, 4))), LOGITS, weights=False)
    assert found is not None
    assert found.weight is None


def a_repair(method: str = "least-squares", count: int = 96) -> Any:
    torch.manual_seed(0)
    head = nn.Linear(8, 4)
    with torch.no_grad():
        head.weight.mul_(8)  # predictions that differ
    graph = made(pooled(head))
    pruned = cut(graph, random_kept(graph, 0.5, 0))
    return repair(pruned, as_batches(IMAGES[:count]), method)


@pytest.mark.parametrize("method", ["least-squares", "bias"])
def test_a_repair_ends_with_the_predictions(method, monkeypatch):
    found = a_repair(method)
    before, after = found.layers[-1].divergence
    assert after < before
    assert found.after.kl == pytest.approx(after, rel=1e-6)
    assert f"and are {after:.4g}" in " ".join(found.notes)
    monkeypatch.setattr("graphprune.repairs.least_squares.rises", lambda differences: True)
    without = a_repair(method)
    assert without.layers[-1].divergence is None
    assert without.after.kl == pytest.approx(before, rel=1e-6)
    assert not torch.equal(without.model(IMAGES), found.model(IMAGES))


def test_where_nothing_is_held_out_predictions_are_not_fitted():
    assert a_repair(count=20).layers[-1].divergence is None


def test_of_classes_that_are_gone_nothing_is_asked():
    torch.manual_seed(0)
    model = randomize(Head(pooled(nn.Linear(8, 6)))).double().eval()
    graph = trace(model, (IMAGES[:2],), unpin_outputs=True)
    kept = graph.all_kept()
    classes = graph.output_units[0][1]
    kept[classes[:2]] = False
    kept[[unit for unit in range(len(kept)) if unit not in classes][:3]] = False
    found = repair(cut(graph, kept), as_batches(IMAGES), "least-squares")
    assert found.layers[-1].divergence is not None
    assert found.after.kl < found.before.kl


class SharedBias(nn.Module):
    """What is added to the predictions moves the images, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Conv2d(3, 8, 3), nn.Parameter(8 * torch.randn(3, 8))
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x + self.bias[:, None, None]).relu().mean((2, 3))
        return F.linear(x, self.weight, self.bias)


def test_a_bias_that_something_else_reads_stays():
    graph = trace(SharedBias().double().eval(), (IMAGES[:2],))
    found = repair(cut(graph, random_kept(graph, 0.5, 0)), as_batches(IMAGES), "least-squares")
    assert found.layers[-1].divergence is not None
    assert "weight" in found.changed
    assert "bias" not in found.changed
