"""Surgery: what the pruned network keeps of the one it came from, and that it trains like it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphprune.coalition import removed_entries
from graphprune.errors import SurgeryError
from graphprune.graph import DependencyGraph, trace
from graphprune.surgery import PrunedModel, cut
from tests.helpers import batch_of, error, random_kept, run, zeroed
from tests.networks import NETWORKS, traced


def pruned_pair(name: str) -> tuple[nn.Module, DependencyGraph, PrunedModel]:
    graph = traced(name)
    return NETWORKS[name].make(), graph, cut(graph, random_kept(graph, 0.4, 0))


@pytest.mark.parametrize("name", NETWORKS)
def test_names_dtypes_and_ties_are_kept(name: str) -> None:
    model, _, pruned = pruned_pair(name)
    before = dict(model.named_parameters(remove_duplicate=False))
    after = dict(pruned.named_parameters(remove_duplicate=False))
    assert set(after) == set(before)
    for parameter, tensor in after.items():
        assert tensor.dtype == before[parameter].dtype
        assert tensor.requires_grad == before[parameter].requires_grad
        assert tensor.is_contiguous()
        for other, its in after.items():
            assert (its is tensor) == (before[other] is before[parameter])
    # A permutation of what remains is a constant of its own, which no state dict holds.
    assert set(pruned.state_dict()) == set(model.state_dict())
    added = {name for name, _ in pruned.named_buffers()} - {n for n, _ in model.named_buffers()}
    assert all(name.endswith(("_places", "_index")) for name in added)
    read = {str(node.target) for node in pruned.graph.nodes if node.op == "get_attr" and node.users}
    assert added <= read


def test_frozen_parameters_stay_frozen() -> None:
    network = NETWORKS["Residual"]
    model = network.make()
    model.stem.requires_grad_(False)
    graph = trace(model, network.inputs())
    pruned = cut(graph, random_kept(graph, 0.4, 0))
    frozen = {name for name, p in pruned.named_parameters() if not p.requires_grad}
    assert frozen == {"stem.0.weight", "stem.1.weight", "stem.1.bias"}


def test_model_and_graph_are_left_alone() -> None:
    network = NETWORKS["InPlace"]
    model = network.make().train()
    model.bn.eval()
    state = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    graph = trace(model, network.inputs())
    code = graph.program.module.code
    pruned = cut(graph, random_kept(graph, 0.4, 0))
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(state[name], now) for name, now in model.state_dict().items())
    assert graph.program.module.code == code
    assert any(p.any() for p in graph.program.module.parameters())


class Trained(nn.Module):
    """Batch norm and dropout around the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(F.relu(self.bn(self.conv(x))).mean((2, 3))))


def test_training_equals_the_modules_own() -> None:
    """Nothing removed: a step in train mode gives the same loss, gradients and statistics."""
    torch.manual_seed(0)
    model, x = Trained().double().eval(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    graph = trace(model, (x,))
    pruned = cut(graph, graph.all_kept())
    outputs = []
    for module in (model, pruned):
        module.train()
        torch.manual_seed(1)
        out = module(x)
        out.square().sum().backward()
        outputs.append(out)
    assert torch.equal(outputs[0], outputs[1])
    ours, theirs = dict(pruned.named_parameters()), dict(model.named_parameters())
    assert all(torch.allclose(ours[name].grad, theirs[name].grad) for name in theirs)
    assert torch.equal(pruned.bn.running_mean, model.bn.running_mean)


def test_train_and_eval_switch_back_and_forth() -> None:
    torch.manual_seed(0)
    model, x = Trained().eval(), torch.randn(4, 3, 8, 8)
    graph = trace(model, (x,))
    pruned = cut(graph, random_kept(graph, 0.5, 0))
    assert not pruned.training
    before = pruned(x)
    statistics = pruned.bn.running_mean.clone()
    pruned.train()
    assert pruned.training
    assert not torch.equal(pruned(x), pruned(x)), "dropout is not active"
    assert not torch.equal(pruned.bn.running_mean, statistics)
    pruned.bn.running_mean.copy_(statistics)
    again = copy.deepcopy(pruned).eval()
    again.bn.running_var.copy_(cut(graph, random_kept(graph, 0.5, 0)).bn.running_var)
    assert torch.equal(again(x), before)
    assert pruned.training


def test_deep_copies_are_independent() -> None:
    network = NETWORKS["Residual"]
    _, _, pruned = pruned_pair("Residual")
    inputs = network.inputs()
    expected = run(pruned, inputs)
    other = copy.deepcopy(pruned)
    assert isinstance(other, PrunedModel)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert error(run(pruned, inputs), expected) == 0
    other.train()
    assert not pruned.training


def test_removed_entries_are_sorted_and_match_the_sizes() -> None:
    network = NETWORKS["Concat"]
    graph = trace(network.make(), network.inputs())
    kept = graph.all_kept()
    left, right = graph.groups
    kept[[left.first + 3, left.first + 1, right.first + 2]] = False
    removed = removed_entries(graph, kept)
    assert removed["left.0.weight"] == {0: (1, 3)}
    assert removed["left.1.running_var"] == {0: (1, 3)}
    assert removed["right.0.weight"] == {0: (2,)}
    assert removed["head.fc.weight"] == {1: (1, 3, 7)}
    assert "head.fc.bias" not in removed


def test_padded_shortcut_shifts_channels() -> None:
    network = NETWORKS["PaddedShortcut"]
    graph = trace(network.make(), network.inputs())
    kept = graph.all_kept()
    kept[graph.group("conv1.weight").first + 2] = False
    removed = removed_entries(graph, kept)
    assert removed["conv1.weight"] == {0: (2,)}
    assert removed["b2.weight"] == {0: (6,)}
    assert removed["head.fc.weight"] == {1: (6,)}


def test_coalitions_that_do_not_fit_are_refused() -> None:
    network = NETWORKS["Residual"]
    graph = trace(network.make(), network.inputs())
    with pytest.raises(SurgeryError, match="14 units"):
        cut(graph, np.ones(3, bool))
    kept = graph.all_kept()
    kept[graph.group("a.0.weight").span] = False
    with pytest.raises(SurgeryError, match=r"a\.0\.weight"):
        cut(graph, kept)


def test_zeroed_state_is_not_the_original() -> None:
    """The oracle of the exactness tests has teeth."""
    network = NETWORKS["Residual"]
    model = network.make()
    graph = trace(model, network.inputs())
    kept = random_kept(graph, 0.4, 0)
    state = zeroed(model, graph, kept)
    changed = {name for name in state if not torch.equal(state[name], model.state_dict()[name])}
    assert {"stem.0.weight", "a.0.weight", "b.weight", "head.fc.weight"} <= changed
    fresh = batch_of(network.inputs(), 3, 0)
    assert error(run(cut(graph, kept), fresh), run(model, fresh)) > 1e-3


@pytest.mark.parametrize(
    "name", ["Residual", "Windows", "FoldedHeads", "Squeezed", "GroupNorm", "Reindexed"]
)
def test_pruned_networks_export_again(name: str) -> None:
    _, _, pruned = pruned_pair(name)
    inputs = NETWORKS[name].inputs()
    again = trace(pruned, inputs)
    fresh = batch_of(inputs, 3, 0)
    assert again.program.dynamic_batch
    assert error(run(cut(again, again.all_kept()), fresh), run(pruned, fresh)) <= 1e-12
