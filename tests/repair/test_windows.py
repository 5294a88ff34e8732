"""Windows: what is seen of a layer is what a clamp lets through, and fits look at nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.data import as_batches
from graphprune.graph import trace
from graphprune.repairs import repair
from graphprune.repairs.lockstep import Walk, shelf
from graphprune.repairs.ridge import Change, LeastSquares
from graphprune.repairs.samples import Sample, error
from graphprune.repairs.windows import limits, window_of
from graphprune.surgery import PrunedModel, cut
from tests.helpers import randomize
from tests.repair.test_targets import Residual, layer_named, prepared


class Clamped(nn.Module):
    """A layer between two bounds, behind a norm whose gains have both signs."""

    def __init__(self, clamp: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.clamp = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), clamp

    def forward(self, x: Tensor) -> Tensor:
        return self.clamp(self.norm(self.conv(x)))


class Clamp(nn.Module):
    """Clamps from above only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=0.5)


CLAMPS = {
    "relu": (nn.ReLU(), (0.0, float("inf"))),
    "relu6": (nn.ReLU6(), (0.0, 6.0)),
    "hardtanh": (nn.Hardtanh(-0.5, 0.25), (-0.5, 0.25)),
    "from above": (Clamp(), (-float("inf"), 0.5)),
}


@pytest.mark.parametrize("name", CLAMPS)
def test_beyond_its_limits_nothing_of_an_output_is_seen(name):
    clamp, bounds = CLAMPS[name]
    check(Clamped(clamp), layer="conv.weight", bounds=bounds)


class Known(Residual):
    """The same block, whose stream is known before its branch is computed."""

    def forward(self, x: Tensor) -> Tensor:
        stream = self.stem(x).flatten(2).transpose(1, 2)
        y = self.norm(self.conv(self.stem(x))).permute(0, 2, 3, 1) * self.scale
        y = torch.roll(y, 1, 1).reshape(len(x), 64, 6) / 2 + 1
        return (stream + y).relu()


def test_limits_know_what_is_added_before_the_clamp():
    check(Known(), layer="conv.weight", bounds=(0.0, float("inf")))


def test_there_are_no_limits_while_what_is_added_is_unknown():
    module, shape_of, _ = prepared(Residual())
    assert window_of(layer_named(module, "conv.weight"), shape_of) is None


def check(model: nn.Module, *, layer: str, bounds: tuple[float, float]) -> None:
    """Clamp the layer's own output to its limits: what comes after must be the same."""
    module, shape_of, x = prepared(model)
    if isinstance(model, Clamped):
        with torch.no_grad():
            module.get_parameter("norm.weight")[::2] *= -1
    node = layer_named(module, layer)
    window = window_of(node, shape_of)
    assert window is not None
    assert (window.low, window.high) == bounds
    end = next(iter(window.target.end.users))
    found = []
    with torch.no_grad():
        for narrowed in (False, True):
            with shelf(1 << 30) as kept:
                walk = Walk(module, [(x,)], {end.name: 1}, kept)
                walk.until(node.name)
                y = 3 * torch.randn(*shape_of(node), generator=torch.Generator().manual_seed(3))
                y = y.double()
                low, high = limits(window, y, walk.lookup(0))
                assert bool((low < high).all())
                share = float(((y < low) | (y > high)).double().mean())
                assert 0.05 < share < 0.95
                found.append(_with_output(walk, node, y.clamp(low, high) if narrowed else y, end))
    torch.testing.assert_close(*found)


def _with_output(walk: Walk, node: Any, y: Tensor, end: Any) -> Tensor:
    original, node.target = node.target, lambda *_: y
    try:
        walk.through(end.name)
    finally:
        node.target = original
    found: Tensor = walk.value(end.name, 0)
    return found


class Smooth(nn.Module):
    """A layer that something smooth reads, and one that two rectifiers would have to agree on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.gelu(self.first(x))
        y = self.second(x)
        return y.relu() + y


@pytest.mark.parametrize("layer", ["first.weight", "second.weight"])
def test_there_is_no_window_where_all_of_an_output_is_seen(layer):
    module, shape_of, _ = prepared(Smooth())
    assert window_of(layer_named(module, layer), shape_of) is None


# ---- fits ---------------------------------------------------------------------------------------


def rows(*, seed: int = 0) -> Sample:
    """Targets of which half are shut, and columns that cannot give them exactly."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(1, 400, 6, generator=generator, dtype=torch.float64)
    outputs = torch.randn(1, 400, 3, generator=generator, dtype=torch.float64)
    outputs += columns[..., :3]
    low = 0.1 * torch.randn(1, 400, 3, generator=generator, dtype=torch.float64)
    limits = low, torch.full_like(low, float("inf"))
    return Sample(columns, outputs, outputs, torch.ones(1, 3), limits)


def fitted(sample: Sample, rounds: int) -> list[Change]:
    problem = LeastSquares(intercept=True)
    problem.add(sample.columns, sample.residuals)
    changes = list(problem.solutions((1e-6,)))
    for _ in range(rounds):
        aims = [(sample.columns, sample.aim(changes[-1]))]
        changes += problem.aimed(aims).solutions((1e-6,))
    return changes


def test_every_round_lowers_the_error_that_is_seen_and_its_bound():
    sample = rows()
    changes = fitted(sample, 12)
    bounds = [
        float((sample.aim(c) - (sample.residuals - sample.lacking(c))).square().sum())
        for c in changes
    ]
    assert all(later < earlier for earlier, later in itertools.pairwise(bounds))
    errors = [error([sample], change) for change in changes]
    assert errors[5] < 0.95 * errors[0]
    # What is not seen may go astray meanwhile.
    unseen = [float(sample.lacking(change).square().sum()) for change in changes]
    assert unseen[5] > unseen[0]


def test_rounds_end_at_the_minimum_of_the_convex_error():
    sample = rows()
    weight = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-10)
    low, _ = sample.limits

    def convex() -> Tensor:
        y = sample.columns @ weight.T + bias
        shut = sample.outputs <= low
        return torch.where(shut, (y - low).clamp_min(0), y - sample.outputs).square().sum()

    def closure() -> Tensor:
        descent.zero_grad()
        loss = convex()
        loss.backward()
        return loss

    descent.step(closure)
    change = fitted(sample, 200)[-1]
    torch.testing.assert_close(change.weight[0], weight.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(change.bias[0], bias.detach(), rtol=1e-3, atol=1e-4)


def a_plain_network() -> tuple[PrunedModel, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)
    )
    graph = trace(randomize(model).double().eval(), (torch.randn(2, 6).double(),))
    images = torch.randn(512, 6, generator=torch.Generator().manual_seed(1)).double()
    kept = graph.all_kept()
    kept[:12] = False
    return cut(graph, kept), images


def test_a_refit_behind_a_rectifier_looks_at_what_it_lets_through(monkeypatch):
    pruned, images = a_plain_network()
    found = repair(pruned, as_batches(images), "least-squares")
    assert found.layers[0].rounds > 0
    monkeypatch.setattr("graphprune.repairs.least_squares.ROUNDS", 0)
    without = repair(pruned, as_batches(images), "least-squares")
    assert without.layers[0].rounds == 0
    assert found.layers[0].after < 0.97 * without.layers[0].after


def test_fits_made_anew_are_those_that_were_held(monkeypatch):
    """Changes of wide layers are not held while others are made."""
    pruned, images = a_plain_network()
    held = repair(pruned, as_batches(images), "least-squares")
    monkeypatch.setattr("graphprune.repairs.least_squares.HELD", -1)
    anew = repair(pruned, as_batches(images), "least-squares")
    assert anew.layers == held.layers
    assert max(gain.rounds for gain in anew.layers) > 0
    tensors = dict(held.model.named_parameters())
    assert all(torch.equal(tensors[name], p) for name, p in anew.model.named_parameters())
