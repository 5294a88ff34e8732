"""Targets: the output from which the path leads to what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from graphprune.columns import linear_layers
from graphprune.graph import trace
from graphprune.repairs.lockstep import Walk, shelf
from graphprune.repairs.targets import corrected, squared_scales, target_of
from tests.helpers import randomize


class Residual(nn.Module):
    """A block whose branch passes a batch norm, a scale and a permutation before it is added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.conv(x)).permute(0, 2, 3, 1) * self.scale
        y = torch.roll(y, 1, 1).reshape(len(x), 64, 6) / 2 + 1
        return (x.flatten(2).transpose(1, 2) + y).relu()


class Shared(nn.Module):
    """The branch is read by something else as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(x)
        return (x + y).relu() + y.sigmoid()


class Later(nn.Module):
    """What the branch is added to is computed after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + self.other(x)).relu()


class Broadcast(nn.Module):
    """The branch is added to every position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.conv(x.mean((2, 3), keepdim=True))


class Gated(nn.Module):
    """The branch is scaled by an activation, which differs between the networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.conv(x) * x.sigmoid()


def prepared(model: nn.Module) -> tuple[fx.GraphModule, Callable[[fx.Node], Any], Tensor]:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graph = trace(randomize(model).double().eval(), (x,))

    def shape_of(node: fx.Node) -> tuple[int, ...] | None:
        value = graph.analysis.values.get((node.name, None))
        return None if value is None else value.shape

    return graph.program.module, shape_of, x


def layer_named(module: fx.GraphModule, weight: str) -> fx.Node:
    nodes = {node.name: node for node in module.graph.nodes}
    (name,) = (n for n, layer in linear_layers(module).items() if layer.weight == weight)
    return nodes[name]


def test_the_path_from_the_target_ends_in_what_is_wanted():
    module, shape_of, x = prepared(Residual())
    layer = layer_named(module, "conv.weight")
    target = target_of(layer, shape_of)
    assert target.corrects
    assert [node.name for node in target.path][-1] == target.end.name
    with shelf(1 << 30) as kept, torch.no_grad():
        walk = Walk(module, [(x,)], {layer.name: 1, target.end.name: 1}, kept)
        walk.until(layer.name)
        lookup = walk.lookup(0)
        output = torch.randn(2, 6, 8, 8, dtype=torch.float64)
        wanted = torch.randn(2, 64, 6, dtype=torch.float64)
        found = corrected(target, output, wanted, lookup)

        def refitted(*inputs: Any) -> Any:
            return found

        layer.target = refitted
        walk.through(target.end.name)
        torch.testing.assert_close(walk.value(target.end.name, 0), wanted)


def test_squared_scales_are_those_of_norms_and_factors():
    module, shape_of, x = prepared(Residual())
    layer = layer_named(module, "conv.weight")
    target = target_of(layer, shape_of)
    with shelf(1 << 30) as kept, torch.no_grad():
        walk = Walk(module, [(x,)], {}, kept)
        walk.until(layer.name)
        found = squared_scales(target, torch.zeros(2, 6, 8, 8).double(), walk.lookup(0))
    norm = dict(module.named_parameters()) | dict(module.named_buffers())
    gain = norm["norm.weight"] / (norm["norm.running_var"] + 1e-5).sqrt() * norm["scale"] / 2
    expected = gain.square()[None, :, None, None].expand(2, -1, 8, 8)
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("model", [Shared(), Broadcast(), Gated()])
def test_nothing_is_made_up_where_the_way_is_not_the_layers_own(model):
    module, shape_of, _ = prepared(model)
    assert not target_of(layer_named(module, "conv.weight"), shape_of).corrects


def test_only_what_is_known_by_then_is_made_up_for():
    module, shape_of, _ = prepared(Later())
    assert not target_of(layer_named(module, "conv.weight"), shape_of).corrects
    assert target_of(layer_named(module, "other.weight"), shape_of).corrects
