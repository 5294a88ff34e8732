"""Optimizers carried over: the pruned network goes on as the masked one would."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adafactor, Adam, AdamW, Optimizer
from torch.optim.lbfgs import LBFGS

import graphprune as gp
from graphprune.coalition import kept_entries
from graphprune.errors import OptionError, SurgeryError
from graphprune.game.masking import mask_network
from graphprune.graph import DependencyGraph, Kept, trace
from graphprune.optimizers import hand_over, sliced_optimizer
from graphprune.surgery import cut, sliced
from tests.helpers import batch_of, double, random_kept
from tests.networks import NETWORKS

Make = Callable[[list[nn.Parameter]], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "adadelta": lambda p: Adadelta(p, lr=0.1),
}


def training_step(module: nn.Module, optimizer: Optimizer, inputs: tuple[Tensor, ...]) -> None:
    optimizer.zero_grad()
    out = module(*inputs)
    (out.square().mean() + out.sin().mean()).backward()
    optimizer.step()


def trained(name: str, make: Make) -> tuple[nn.Module, Optimizer]:
    """Return a network and its optimizer after three steps."""
    network = NETWORKS[name]
    model = network.make()
    optimizer = make(list(model.parameters()))
    for seed in range(3):
        training_step(model, optimizer, double(batch_of(network.inputs(), 4, seed)))
    return model, optimizer


def assert_step_like_masked(
    graph: DependencyGraph, kept: Kept, pruned: nn.Module, ours: Optimizer, theirs: Optimizer
) -> None:
    """One step of both: kept entries of the masked network are those of the pruned one."""
    name_of = {id(parameter): name for name, parameter in graph.program.traced_from.items()}
    masked = mask_network(graph, kept)
    full = dict(masked.network.named_parameters())
    for group in theirs.param_groups:
        before = group["params"]
        group["params"] = [full[name_of[id(parameter)]] for parameter in before]
        for then, now in zip(before, group["params"], strict=True):
            theirs.state[now] = theirs.state.pop(then)
    inputs = double(batch_of(graph.example_inputs, 5, 11))
    start = {name: parameter.detach().clone() for name, parameter in pruned.named_parameters()}
    training_step(pruned, ours, inputs)
    training_step(masked, theirs, inputs)
    for name, parameter in pruned.named_parameters():
        expected = sliced(full[name].detach(), kept_entries(graph, name, kept))
        assert not torch.equal(parameter, start[name])
        assert torch.allclose(parameter, expected, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", ["Residual", "Concat", "PackedAttention", "Depthwise"])
def test_next_step_is_that_of_the_masked_network(name: str, kind: str) -> None:
    model, optimizer = trained(name, OPTIMIZERS[kind])
    graph = trace(model, NETWORKS[name].inputs())
    kept = random_kept(graph, 0.4, 0)
    pruned = cut(graph, kept)
    ours = sliced_optimizer(optimizer, graph, kept, pruned)
    assert_step_like_masked(graph, kept, pruned, ours, optimizer)


def test_a_fresh_state_would_be_noticed() -> None:
    """The oracle above has teeth: without the moments the step is another."""
    model, optimizer = trained("Residual", OPTIMIZERS["adam"])
    graph = trace(model, NETWORKS["Residual"].inputs())
    kept = random_kept(graph, 0.4, 0)
    pruned = cut(graph, kept)
    fresh = OPTIMIZERS["adam"](list(pruned.parameters()))
    with pytest.raises(AssertionError):
        assert_step_like_masked(graph, kept, pruned, fresh, optimizer)


def test_the_optimizer_given_is_left_alone() -> None:
    model, optimizer = trained("Residual", OPTIMIZERS["adamw"])
    before = copy.deepcopy(optimizer.state_dict())
    graph = trace(model, NETWORKS["Residual"].inputs())
    kept = random_kept(graph, 0.4, 0)
    ours = sliced_optimizer(optimizer, graph, kept, pruned := cut(graph, kept))
    training_step(pruned, ours, double(NETWORKS["Residual"].inputs()))
    ours.param_groups[0]["lr"] = 7.0
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, state in before["state"].items():
        assert all(torch.equal(after["state"][number][key], value) for key, value in state.items())
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for p in model.parameters()
    }


class TestPrune:
    """``gp.prune(..., optimizer=...)``."""

    def test_groups_settings_and_schedulers_go_on(self) -> None:
        network = NETWORKS["Residual"]
        model = network.make()
        stem = list(model.stem.parameters())
        rest = [p for p in model.parameters() if not any(p is q for q in stem)]
        optimizer = SGD(
            [{"params": stem, "lr": 0.2}, {"params": rest, "momentum": 0.5}],
            lr=0.1,
            momentum=0.9,
        )
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        training_step(model, optimizer, network.inputs())
        graph = gp.trace(model, network.inputs())
        plan = gp.select(gp.rank(graph, criterion="l1"), ratio=0.4)
        pruned = gp.prune(graph, plan, optimizer=optimizer)
        scheduler.step()
        first, second = optimizer.param_groups
        assert (first["lr"], second["lr"], second["momentum"]) == (0.1, 0.05, 0.5)
        assert {id(p) for g in (first, second) for p in g["params"]} == {
            id(p) for p in pruned.parameters()
        }
        start = [p.detach().clone() for p in pruned.parameters()]
        training_step(pruned, optimizer, network.inputs())
        assert not any(map(torch.equal, start, pruned.parameters()))

    def test_a_copy_that_is_sliced_in_place(self) -> None:
        model, optimizer = trained("Residual", OPTIMIZERS["adam"])
        graph = gp.trace(model, NETWORKS["Residual"].inputs())
        plan = gp.select(gp.rank(graph, criterion="l1"), ratio=0.4)
        pruned = gp.prune(graph, plan, in_place_of=model, optimizer=optimizer)
        assert type(pruned) is type(model)
        for parameter in pruned.parameters():
            assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape

    def test_after_a_repair(self) -> None:
        model, optimizer = trained("Residual", OPTIMIZERS["adam"])
        inputs = batch_of(NETWORKS["Residual"].inputs(), 32, 0)
        graph = gp.trace(model, NETWORKS["Residual"].inputs())
        plan = gp.select(gp.rank(graph, criterion="l1"), ratio=0.4)
        repaired = gp.repair(gp.prune(graph, plan), inputs, method="batchnorm")
        ours = gp.prune_optimizer(optimizer, graph, plan, repaired)
        assert len(ours.state) == len(list(repaired.parameters()))


def test_tied_parameters_are_one() -> None:
    network = NETWORKS["TiedWeights"]
    model = network.make()
    optimizer = OPTIMIZERS["momentum"](list(model.parameters()))
    training_step(model, optimizer, double(network.inputs()))
    graph = trace(model, network.inputs())
    kept = random_kept(graph, 0.4, 0)
    pruned = cut(graph, kept)
    ours = sliced_optimizer(optimizer, graph, kept, pruned)
    assert len(ours.param_groups[0]["params"]) == len(list(pruned.parameters()))


def test_means_over_a_dim_are_sliced_along_the_others() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    optimizer = Adafactor(model.parameters())
    training_step(model, optimizer, (torch.randn(4, 6),))
    graph = trace(model, (torch.randn(2, 6),))
    kept = graph.all_kept()
    kept[[1, 4]] = False
    pruned = cut(graph, kept)
    ours = sliced_optimizer(optimizer, graph, kept, pruned)
    state = ours.state[pruned.get_parameter("0.weight")]
    assert (state["row_var"].shape, state["col_var"].shape) == ((6, 1), (1, 6))
    training_step(pruned, ours, (torch.randn(4, 6),))


class TestRefusals:
    """What cannot be carried over is refused before anything is changed."""

    def make(self) -> tuple[nn.Module, DependencyGraph, Kept]:
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
        graph = trace(model, (torch.randn(2, 6),))
        kept = graph.all_kept()
        kept[[1, 4]] = False
        return model, graph, kept

    def test_another_model(self) -> None:
        model, graph, kept = self.make()
        optimizer = SGD(copy.deepcopy(model).parameters(), lr=0.1)
        with pytest.raises(OptionError, match=r"shape \(8, 6\) that is not one"):
            hand_over(optimizer, graph, kept, cut(graph, kept))

    def test_another_plan(self) -> None:
        model, graph, kept = self.make()
        optimizer = SGD(model.parameters(), lr=0.1)
        other = kept.copy()
        other[0] = False
        with pytest.raises(SurgeryError, match=r"0.weight is \(5, 6\) instead of \(6, 6\)"):
            hand_over(optimizer, graph, kept, cut(graph, other))
        assert optimizer.param_groups[0]["params"][0] is model[0].weight

    def test_a_state_of_another_kind(self) -> None:
        model, graph, kept = self.make()
        optimizer = LBFGS(model.parameters())

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = model(torch.ones(3, 6)).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        with pytest.raises(OptionError, match="does not lie entry by entry") as refused:
            hand_over(optimizer, graph, kept, cut(graph, kept))
        assert refused.value.hint == "start a new optimizer for the pruned network"
