"""Every layer is the matrix product that its layout says it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphprune.columns import every_place, linear_layers, random_places
from graphprune.tracing import trace_program

LAYERS = {
    "linear": (nn.Linear(6, 4), (3, 6)),
    "tokens": (nn.Linear(6, 4, bias=False), (2, 5, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "conv2d": (
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        (2, 4, 8, 7),
    ),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (2, 4, 5, 5)),
    "same": (nn.Conv2d(3, 5, (2, 3), padding="same"), (2, 3, 5, 6)),
    "valid": (nn.Conv1d(3, 5, 2, padding="valid"), (2, 3, 5)),
    "conv3d": (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 3, 4, 3)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1), (2, 4, 5)),
    "transposed2d": (
        nn.ConvTranspose2d(
            4, 6, 3, stride=(2, 3), padding=1, output_padding=(1, 0), groups=2, dilation=(2, 1)
        ),
        (2, 4, 4, 3),
    ),
    "transposed3d": (nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 2, 2, 3, 2)),
}


class TurnedProduct(nn.Module):
    """As GPT-2 multiplies: by a weight (inputs, outputs)."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))
        self.bias = nn.Parameter(torch.randn(4)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return x @ self.weight
        return torch.addmm(self.bias, x, self.weight)


LAYERS["product"] = (TurnedProduct(bias=False), (2, 5, 6))
LAYERS["addmm"] = (TurnedProduct(bias=True), (5, 6))


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_columns_times_weight(name):
    layer_module, shape = LAYERS[name]
    program = trace_program(layer_module.double(), (torch.randn(shape, dtype=torch.float64),))
    (layer,) = linear_layers(program.module).values()
    x = torch.randn(shape, dtype=torch.float64)
    y = program.module(x)
    weight = program.module.get_parameter(layer.weight)
    assert torch.equal(layer.layout.weight(layer.layout.matrix(weight), weight), weight)
    for places in (
        every_place(layer, y),
        random_places(layer, y, 7, torch.Generator().manual_seed(0)),
    ):
        columns = layer.layout.columns(x, y, places)
        expected = layer.layout.outputs(y, places)
        found = columns @ layer.layout.matrix(weight).mT
        if layer.bias is not None:
            bias = program.module.get_parameter(layer.bias)
            found = found + bias.reshape(len(found), 1, -1)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_random_places_are_different_and_as_many_as_asked_for():
    program = trace_program(nn.Conv2d(1, 1, 1), (torch.randn(2, 1, 8, 8),))
    (layer,) = linear_layers(program.module).values()
    y = torch.zeros(4, 1, 8, 8)
    places = random_places(layer, y, 40, torch.Generator().manual_seed(0))
    assert places.shape == (4, 10)
    assert all(len(set(row.tolist())) == 10 for row in places)
    assert len({tuple(row.tolist()) for row in places}) == 4
    assert random_places(layer, y, 10**6, torch.Generator()).shape == (4, 64)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x)))


def test_channels_spread_over_the_columns_that_hold_them():
    grouped = nn.Conv2d(4, 6, (1, 2), groups=2, bias=False)
    program = trace_program(grouped, (torch.randn(2, 4, 3, 3),))
    (layer,) = linear_layers(program.module).values()
    x = torch.arange(4.0)[None, :, None, None].expand(2, 4, 3, 3)
    y = program.module(x)
    columns = layer.layout.columns(x, y, every_place(layer, y))
    assert torch.equal(layer.layout.over_columns(torch.arange(4.0)), columns[:, 0])


def test_weights_that_are_read_twice_are_left_out():
    program = trace_program(Tied(), (torch.randn(2, 4),))
    assert [layer.weight for layer in linear_layers(program.module).values()] == ["last.weight"]


def test_weights_that_are_computed_are_left_out():
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    program = trace_program(nn.Sequential(normed, nn.Linear(4, 2)), (torch.randn(2, 4),))
    assert [layer.weight for layer in linear_layers(program.module).values()] == ["1.weight"]
