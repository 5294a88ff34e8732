"""Slicing the original module: the same function, or a refusal."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import SurgeryError
from graphprune.graph import trace
from graphprune.inplace import prune_in_place_of
from graphprune.surgery import cut
from tests.helpers import batch_of, error, random_kept, randomize, run
from tests.networks import NETWORKS

SLICED = [
    *("MLP", "Conv1d", "Conv3d", "Transposed", "Residual", "Concat", "UNet", "SqueezeExcite"),
    *("Depthwise", "DepthwiseMultiplier", "GroupedWhole", "GroupedColumns", "GroupNorm"),
    *("GRN", "TiedWeights", "TiedHead", "UsedTwice", "TwoInputs", "RMSNorm"),
]
"""Networks whose forward takes its sizes from the layers."""

LITERAL = ["PaddedShortcut", "SplitUneven", "ManualAttention", "TorchAttention", "Windows"]
"""Networks with sizes written into their forward."""


@pytest.mark.parametrize("name", SLICED)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_module_computes_what_the_graph_computes(name: str, seed: int) -> None:
    model, inputs = NETWORKS[name].make(), NETWORKS[name].inputs()
    graph = trace(model, inputs)
    kept = random_kept(graph, 0.4, seed)

    smaller = prune_in_place_of(model, graph, kept)

    pruned = cut(graph, kept)
    assert type(smaller) is type(model)
    for batch in (1, 3):
        fresh = batch_of(inputs, batch, seed)
        assert error(run(smaller, fresh), run(pruned, fresh)) < 1e-9
    expected = {key: value.shape for key, value in pruned.named_parameters()}
    found = {key: value.shape for key, value in smaller.named_parameters()}
    assert found == expected
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", LITERAL)
def test_sizes_in_the_forward_are_refused(name: str) -> None:
    model = NETWORKS[name].make()
    graph = trace(model, NETWORKS[name].inputs())

    with pytest.raises(SurgeryError, match=r"gp\.prune") as caught:
        prune_in_place_of(model, graph, random_kept(graph, 0.4, 0))

    assert "in place" in caught.value.message


def test_the_callers_model_stays_as_it_was() -> None:
    model = NETWORKS["Residual"].make().train()
    before, text = copy.deepcopy(model.state_dict()), str(model)
    graph = trace(model, NETWORKS["Residual"].inputs())

    smaller = prune_in_place_of(model, graph, random_kept(graph, 0.4, 0))

    assert smaller.training
    assert model.training
    assert str(model) == text
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_layers_say_their_new_sizes() -> None:
    model = NETWORKS["GroupedWhole"].make()
    graph = trace(model, NETWORKS["GroupedWhole"].inputs())

    smaller = prune_in_place_of(model, graph, random_kept(graph, 0.4, 0))

    for layer in smaller.modules():
        if isinstance(layer, nn.Conv2d):
            outputs, inputs = layer.weight.shape[:2]
            assert (layer.out_channels, layer.in_channels) == (outputs, inputs * layer.groups)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.running_mean) == len(layer.weight)


def test_frozen_and_tied_parameters_stay_so() -> None:
    model = NETWORKS["TiedWeights"].make()
    model.first.weight.requires_grad_(False)
    model.out.bias.requires_grad_(False)
    graph = trace(model, NETWORKS["TiedWeights"].inputs())

    smaller = prune_in_place_of(model, graph, random_kept(graph, 0.4, 0))

    assert smaller.first.weight is smaller.second.weight
    assert {name for name, p in smaller.named_parameters() if not p.requires_grad} == {
        "first.weight",
        "out.bias",
    }


def test_a_sliced_module_trains() -> None:
    model, inputs = NETWORKS["Residual"].make(), NETWORKS["Residual"].inputs()
    graph = trace(model, inputs)
    smaller = prune_in_place_of(model, graph, random_kept(graph, 0.4, 0)).train()
    mean = smaller.stem[1].running_mean.clone()

    smaller(*batch_of(inputs, 4, 0)).square().sum().backward()

    assert all(p.grad is not None and p.grad.shape == p.shape for p in smaller.parameters())
    assert not torch.equal(mean, smaller.stem[1].running_mean)


def test_another_network_is_refused() -> None:
    model, inputs = NETWORKS["Residual"].make(), NETWORKS["Residual"].inputs()
    graph = trace(model, inputs)
    kept = random_kept(graph, 0.4, 0)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.b.bias.add_(1)

    with pytest.raises(SurgeryError, match="another function"):
        prune_in_place_of(other, graph, kept)
    with pytest.raises(SurgeryError, match=r"stem\.0\.weight"):
        prune_in_place_of(nn.Conv2d(3, 4, 1), graph, kept)


def test_a_forward_that_counts_its_channels_is_refused() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.up(x).relu() * self.up.out_features)

    model = Counts().eval()
    graph = trace(model, (torch.randn(2, 4),))

    with pytest.raises(SurgeryError, match="relative error"):
        prune_in_place_of(model, graph, random_kept(graph, 0.5, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small", "googlenet"])
def test_torchvision(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    options = {"init_weights": False} if name == "googlenet" else {}
    model = randomize(torchvision.models.get_model(name, weights=None, **options)).eval()
    graph = trace(model, (torch.randn(2, 3, 64, 64),))

    smaller = prune_in_place_of(model, graph, random_kept(graph, 0.3, 0))

    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
