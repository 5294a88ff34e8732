"""Least squares: what can be made up for is made up for, layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphprune.data import Batch, as_batches
from graphprune.errors import DataError, OptionError
from graphprune.export import load_program, save_program
from graphprune.graph import DependencyGraph, Kept, trace
from graphprune.repairs import RepairResult, repair
from graphprune.surgery import PrunedModel, cut
from tests.helpers import random_kept, randomize
from tests.networks import NETWORKS, traced

IMAGES = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(5)).double()
TOKENS = torch.randn(96, 5, 6, generator=torch.Generator().manual_seed(6)).double()


class Chain(nn.Module):
    """A middle layer of some kind whose inputs 0 and 1 are the same."""

    def __init__(self, middle: nn.Module, *, norm: bool) -> None:
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, 8, 3, padding=1), middle
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.middle(self.first(x).relu())).relu()
        return self.head(x.mean((2, 3)))


MIDDLES = {
    "conv": nn.Conv2d(8, 8, 3, padding=1),
    "no bias, norm": nn.Conv2d(8, 8, 3, padding=1, bias=False),
    "dilated": nn.Conv2d(8, 8, 3, stride=2, dilation=2, padding=1),
    "transposed": nn.ConvTranspose2d(8, 8, 3, stride=2),
}


def twins(model: nn.Module, layer: nn.Module) -> nn.Module:
    """Make unit 1 of a layer do what unit 0 does."""
    randomize(model).double().eval()
    with torch.no_grad():
        layer.weight[1] = layer.weight[0]
        if layer.bias is not None:
            layer.bias[1] = layer.bias[0]
    return model


def without(graph: DependencyGraph, group: str, *units: int) -> Kept:
    kept = graph.all_kept()
    kept[graph.group(group).first + torch.tensor(units).numpy()] = False
    return kept


def distance(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        expected = model(x)
        return float((other(x) - expected).norm() / (expected - expected.mean(0)).norm())


@pytest.mark.parametrize("name", MIDDLES)
def test_what_a_twin_did_is_taken_over(name):
    model = Chain(MIDDLES[name], norm="norm" in name)
    graph = trace(twins(model, model.first), (IMAGES[:2],))
    pruned = cut(graph, without(graph, "first.weight", 1))
    result = repair(pruned, as_batches(IMAGES), "least-squares")
    assert "middle.weight" in result.changed
    assert distance(model, result.model, IMAGES) < 0.003
    assert distance(model, pruned, IMAGES) > 0.05
    (gain, *_) = result.layers
    assert gain.layer == "middle.weight"
    assert gain.after < 1e-4 * gain.before
    assert result.after.kl < 1e-4 * result.before.kl


class Attention(nn.Module):
    """Self-attention of two heads of which one does what the other does, with a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (
            layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


def test_what_a_twin_head_did_is_taken_over():
    model = randomize(Attention()).double().eval()
    with torch.no_grad():
        for layer in (model.q, model.k, model.v):
            layer.weight[4:] = layer.weight[:4]
            layer.bias[4:] = layer.bias[:4]
    graph = trace(model, (TOKENS[:2],))
    heads = next(group for group in graph.groups if group.n_units == 2)
    pruned = cut(graph, without(graph, heads.name, 1))
    result = repair(pruned, as_batches(TOKENS), "least-squares")
    assert distance(model, result.model, TOKENS) < 0.003 < distance(model, pruned, TOKENS)


class Stream(nn.Module):
    """A stream to which a wide branch adds; the first layer of another branch is pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.narrow, self.back = nn.Linear(6, 3), nn.Linear(3, 6)
        self.wide, self.last = nn.Linear(6, 64), nn.Linear(64, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.back(self.narrow(x).tanh())
        x = x + self.last(self.wide(x).tanh())
        return self.head(x.mean(1))


def test_later_branches_make_up_for_the_error_of_the_stream():
    model = randomize(Stream()).double().eval()
    graph = trace(model, (TOKENS[:2],))
    pruned = cut(graph, without(graph, "narrow.weight", 0))
    result = repair(pruned, as_batches(TOKENS), "least-squares")
    gains = {gain.layer: gain for gain in result.layers}
    # The wide branch sees the stream, so it can add most of what the narrow one lacks.
    assert gains["last.weight"].after < 0.3 * gains["last.weight"].before
    assert distance(model, result.model, TOKENS) < 0.5 * distance(model, pruned, TOKENS)


@pytest.mark.parametrize("groups", [2, 8])
def test_grouped_layers_are_refitted_group_by_group(groups):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=groups),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    randomize(model).double().eval()
    graph = trace(model, (IMAGES[:2],))
    pruned = cut(graph, without(graph, "0.weight", 0, 1))
    result = repair(pruned, as_batches(IMAGES), "least-squares")
    assert [gain.layer for gain in result.layers] == ["2.weight", "4.weight", "8.weight"]
    assert all(gain.after <= gain.before for gain in result.layers)
    assert result.after.kl < result.before.kl


def test_what_does_not_help_is_left():
    """A network of which nothing is gone receives what it always did."""
    graph = traced("Residual")
    pruned = cut(graph, graph.all_kept())
    x = torch.randn(40, *graph.example_inputs[0].shape[1:])
    result = repair(pruned, as_batches(x), "least-squares")
    assert result.changed == ()
    assert result.layers == ()
    assert "nothing was repaired" in result.notes[0]


def test_a_repair_that_moves_away_is_not_kept(monkeypatch):
    from graphprune.repairs import registry

    def ruin(job: registry.RepairJob) -> registry.Outcome:
        for parameter in job.model.parameters():
            parameter.mul_(-3)
        return registry.Outcome()

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    registry.register("ruin", guarded=True)(ruin)
    pruned = a_pruned()
    result = repair(pruned, as_batches(IMAGES), "ruin")
    assert result.changed == ()
    assert "ruin was not kept" in result.notes[-1]
    assert result.method == "none"
    assert result.after == result.before
    assert distance(pruned, result.model, IMAGES) == 0


def a_pruned() -> PrunedModel:
    torch.manual_seed(0)
    model = Chain(nn.Conv2d(8, 8, 3, padding=1), norm=True)
    graph = trace(randomize(model).double().eval(), (IMAGES[:2],))
    return cut(graph, random_kept(graph, 0.4, 0))


def test_few_images_are_all_fitted_and_it_is_said():
    result = repair(a_pruned(), as_batches(IMAGES[:20]), "least-squares")
    assert "20 images are too few" in result.notes[-1]
    assert result.before is None
    assert result.changed


@pytest.mark.parametrize("method", ["least-squares", "bias", "auto"])
def test_equal_seeds_give_equal_networks(method):
    one, other = (
        repair(a_pruned(), as_batches(IMAGES, batch_size=size), method, seed=3) for size in (16, 16)
    )
    tensors = dict(other.model.named_parameters())
    assert all(torch.equal(tensors[name], p) for name, p in one.model.named_parameters())


def test_files_instead_of_memory_make_no_difference():
    one, other = (
        repair(a_pruned(), as_batches(IMAGES), "least-squares", max_memory=size)
        for size in (1 << 30, 1 << 16)
    )
    torch.testing.assert_close(one.model(IMAGES), other.model(IMAGES), rtol=1e-6, atol=1e-8)


def test_bias_adds_what_is_missing_on_average_and_nothing_else():
    result = repair(a_pruned(), as_batches(IMAGES), "bias")
    assert result.changed
    assert all(name.endswith(("bias", "running_mean")) for name in result.changed)
    assert result.after.kl < result.before.kl


def test_distillation_goes_on_where_least_squares_ends():
    torch.manual_seed(0)
    model = randomize(Chain(nn.Conv2d(8, 8, 3, padding=1), norm=True)).double().eval()
    with torch.no_grad():
        model.head.weight *= 30  # predictions that differ from image to image
    graph = trace(model, (IMAGES[:2],))
    pruned = cut(graph, without(graph, "first.weight", 0, 1, 2, 3, 4, 5))
    refitted = repair(pruned, as_batches(IMAGES), "least-squares")
    distilled = repair(pruned, as_batches(IMAGES), "distill")
    assert distilled.after.kl < refitted.after.kl
    assert all(parameter.grad is None for parameter in distilled.model.parameters())
    frozen = [name for name in distilled.changed if "running" in name]
    assert frozen == [name for name in refitted.changed if "running" in name]


def test_distillation_needs_images_to_hold_out():
    with pytest.raises(DataError, match="too few"):
        repair(a_pruned(), as_batches(IMAGES[:20]), "distill")


def test_a_network_from_a_file_is_not_repaired_blindly(tmp_path):
    save_program(a_pruned(), None, tmp_path / "pruned.pt2")
    loaded = load_program(tmp_path / "pruned.pt2")
    with pytest.raises(OptionError, match="read from a file"):
        repair(loaded, as_batches(IMAGES), "least-squares")


def test_inputs_must_be_as_many_as_the_network_takes():
    two = Batch(inputs=(IMAGES, IMAGES))
    with pytest.raises(DataError, match="2 inputs, the network takes 1"):
        repair(a_pruned(), as_batches(two), "least-squares")


def refitted_anywhere(name: str) -> RepairResult:
    graph = traced(name)
    inputs = graph.example_inputs
    generator = torch.Generator().manual_seed(0)
    many = tuple(x[torch.randint(len(x), (40,), generator=generator)] for x in inputs)
    noisy = tuple(
        x + 0.3 * torch.randn(x.shape, generator=generator).to(x) if x.is_floating_point() else x
        for x in many
    )
    pruned = cut(graph, random_kept(graph, 0.3, 0))
    return repair(pruned, as_batches([(*noisy, torch.zeros(40).long())]), "least-squares")


ALL_TENSORS = [
    name
    for name, network in NETWORKS.items()
    if all(isinstance(x, Tensor) and x.dim() for x in network.inputs())
]


@pytest.mark.parametrize("name", ALL_TENSORS)
def test_no_network_is_refitted_for_the_worse(name):
    result = refitted_anywhere(name)
    for gain in result.layers:
        assert gain.after <= gain.before or gain.ridge is None
    if result.before is not None and result.after is not None:
        assert result.after.kl <= result.before.kl
