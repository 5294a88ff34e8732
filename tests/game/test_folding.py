"""Folding: a gated network whose batch norms are folded computes what it did, and its gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphprune.game.evaluation import Evaluator
from graphprune.game.folding import fold_batch_norms
from graphprune.game.masking import gated_module, unit_gates
from graphprune.graph import DependencyGraph, trace
from tests.game.test_evaluation import images_for
from tests.helpers import batch_of, error, leaves, randomize
from tests.networks import NETWORKS
from tests.traced import traced

EXACT = 1e-12


def norms_of(module: fx.GraphModule) -> int:
    return sum(node.target is torch.ops.aten.batch_norm.default for node in module.graph.nodes)


def made(model: nn.Module, *shape: int) -> DependencyGraph:
    return trace(randomize(model).double().eval(), (torch.randn(2, *shape, dtype=torch.float64),))


def assert_folds(graph: DependencyGraph, gone: int) -> None:
    """Check values and gradients, with gates open, closed and half open, and the weights."""
    state = {name: x.clone() for name, x in graph.program.module.state_dict().items()}
    plain, folded = gated_module(graph), fold_batch_norms(gated_module(graph))
    assert norms_of(plain) - norms_of(folded) == gone
    inputs = batch_of(graph.example_inputs, 3, 1)
    generator = torch.Generator().manual_seed(0)
    some = torch.rand(3, graph.n_units, generator=generator, dtype=torch.float64)
    for rows in (torch.ones_like(some), torch.zeros_like(some), (some > 0.4).double(), some):
        found = []
        for module in (folded, plain):
            gates = unit_gates(rows, torch.float64).requires_grad_()
            outputs = leaves(module(gates, *inputs))
            (slope,) = torch.autograd.grad(sum(x.sin().sum() for x in outputs), gates)
            found.append([*outputs, slope])
        assert error(*found) <= EXACT
        assert bool(found[0][-1].any())
    for name, now in graph.program.module.state_dict().items():
        assert torch.equal(state[name], now)


def between(layer: nn.Module, norm: nn.Module, last: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, norm, nn.Tanh(), last)


FOLDED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (
        lambda: between(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.Conv1d(6, 2, 3)),
        (3, 9),
    ),
    "conv2d": (
        lambda: between(
            nn.Conv2d(3, 6, 3, stride=2, padding=1, dilation=2),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 2, 1),
        ),
        (3, 8, 8),
    ),
    "conv2d without bias": (
        lambda: between(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)),
        (3, 6, 6),
    ),
    "conv3d": (
        lambda: between(nn.Conv3d(2, 5, 2, bias=False), nn.BatchNorm3d(5), nn.Conv3d(5, 2, 1)),
        (2, 3, 4, 4),
    ),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1),
            between(nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)),
        ),
        (3, 5, 5),
    ),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 1),
            between(
                nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)
            ),
        ),
        (3, 5, 5),
    ),
    "linear": (lambda: between(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)), (4,)),
    "linear without bias": (
        lambda: between(nn.Linear(4, 7, bias=False), nn.BatchNorm1d(7), nn.Linear(7, 3)),
        (4,),
    ),
    "without affine": (
        lambda: between(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False, eps=0.3), nn.Conv2d(6, 2, 1)
        ),
        (3, 6, 6),
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_it_folds(name: str) -> None:
    make, shape = FOLDED[name]
    graph = made(make(), *shape)
    assert graph.n_units
    assert_folds(graph, 1)


class Reading(nn.Module):
    """The convolution's output is read by another op beside the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last(self.norm(x).relu() + x)


class Returned(Reading):
    """It is an output of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.mid = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x)
        return self.last(self.mid(self.norm(x)).tanh()), x


class Before(nn.Module):
    """Norms before activations and layers, as in pre-activation networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.n1, self.a = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.n2 = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(self.n2(x + self.a(self.n1(x).tanh())))


class Tokens(nn.Module):
    """Channels of the norm lie in dim 1, the linear layer's features in the last."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(4, 6), nn.BatchNorm1d(size), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(self.up(x)).tanh())


class Statistics(Reading):
    """The norm takes the batch's own statistics, and has none of its own to fold."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).tanh())


class Computed(Reading):
    """The norm's gain is computed."""

    def forward(self, x: Tensor) -> Tensor:
        norm, y = self.norm, self.conv(x)
        gain = norm.weight * x.mean()
        y = nn.functional.batch_norm(y, norm.running_mean, norm.running_var, gain, norm.bias)
        return self.last(y.tanh())


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Reading, (3, 6, 6)),
        (Returned, (3, 6, 6)),
        (Before, (3, 6, 6)),
        (lambda: Tokens(5), (5, 4)),
        (lambda: Tokens(6), (6, 4)),
        (Statistics, (3, 6, 6)),
        (Computed, (3, 6, 6)),
        (
            lambda: between(nn.ConvTranspose2d(3, 6, 2), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)),
            (3, 4, 4),
        ),
    ],
)
def test_it_does_not_fold(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    graph = made(make(), *shape)
    assert norms_of(graph.program.module)
    assert_folds(graph, 0)


class Twice(nn.Module):
    """One convolution is called twice, each time with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.n1, self.n2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(self.n2(self.conv(self.n1(self.conv(x)).tanh())).tanh())


class Shared(nn.Module):
    """Two convolutions share one weight; a norm follows one of them only."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.two.weight = self.one.weight
        self.norm, self.last = nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.one(x)).tanh() + self.two(x.flip(3)).tanh())


class SharedNorm(nn.Module):
    """One norm is called after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.norm, self.last = nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.one(x)).tanh() + self.norm(self.two(x)).tanh())


class InARow(nn.Sequential):
    """A norm of a norm: both fold, one after the other."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 2, 1)
        )


@pytest.mark.parametrize(("make", "gone"), [(Twice, 2), (Shared, 1), (SharedNorm, 2), (InARow, 2)])
def test_weights_used_in_several_places(make: Callable[[], nn.Module], gone: int) -> None:
    assert_folds(made(make(), 3, 6, 6), gone)


def test_norms_in_training_mode_stay() -> None:
    """They would take the batch's statistics, so they are no part of a layer."""
    graph = made(FOLDED["conv2d"][0](), 3, 8, 8)
    module = gated_module(graph)
    (norm,) = (n for n in module.graph.nodes if n.target is torch.ops.aten.batch_norm.default)
    norm.update_arg(5, True)
    assert norms_of(fold_batch_norms(module)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_computes_the_same(name: str) -> None:
    graph = traced(name)
    plain, folded = gated_module(graph), fold_batch_norms(gated_module(graph))
    inputs = batch_of(graph.example_inputs, 3, 1)
    flat = pytree.tree_leaves(inputs)
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(graph.n_units, generator=generator) > 0.3
    gates = unit_gates(kept, torch.float64)
    with torch.no_grad():
        assert error(leaves(folded(gates, *flat)), leaves(plain(gates, *flat))) <= EXACT


def test_an_evaluator_folds_and_leaves_the_graph_alone() -> None:
    graph = traced("Residual")
    evaluator = Evaluator(graph, images_for(graph, 3))
    assert norms_of(evaluator._gated) == 0
    assert norms_of(graph.program.module) == 2
    assert norms_of(gated_module(graph)) == 2
