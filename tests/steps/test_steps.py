"""Pruning in steps: one plan of the original network, nested, exact, and repeatable."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import graphprune as gp
from graphprune.building import Repairing, build
from graphprune.coalition import check_coalition
from graphprune.correspondence import correspondence
from graphprune.criteria import rank
from graphprune.data import CalibrationBatches, as_batches
from graphprune.errors import BudgetError, OptionError
from graphprune.fidelity import with_reference
from graphprune.game.evaluation import Evaluator
from graphprune.graph import DependencyGraph, trace
from graphprune.ranking import Ranking, split_by_group
from graphprune.selection import Budget, select, select_within
from graphprune.steps import Stepped, select_in_steps
from graphprune.surgery import cut
from tests.helpers import random_kept
from tests.traced import traced

NAMES = ("Residual", "PaddedShortcut", "Concat", "PackedAttention", "Depthwise", "Split")
HALF = Budget(ratio=0.5, of="macs")


def in_steps(name: str, budget: Budget = HALF, steps: int = 3, criterion: str = "l2") -> Stepped:
    graph = traced(name)
    return select_in_steps(
        graph,
        None,
        budget,
        steps=steps,
        rank=lambda network, data, step: rank(network, data, criterion=criterion, seed=step),
        build=lambda kept: cut(graph, kept),
    )


def recording(graph: DependencyGraph, scores: np.ndarray) -> Ranking:
    return Ranking(graph=graph, groups=split_by_group(graph, scores), criterion="test")


# ---- which units are which ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_units_of_a_cut_network_are_found_again(name: str) -> None:
    graph = traced(name)
    kept = random_kept(graph, 0.4, 1)
    smaller = trace(cut(graph, kept), graph.example_inputs)
    same = correspondence(graph, kept, smaller)
    assert (same.known == kept).all()
    own, original = same.pairs.T
    assert (np.sort(own) == np.arange(smaller.n_units)).all()
    assert np.unique(original).size == original.size
    # Cutting twice is cutting once.
    left = random_kept(smaller, 0.4, 2)
    both = kept.copy()
    both[original[~left[own]]] = False
    with torch.no_grad():
        outputs = [
            torch.utils._pytree.tree_leaves(network(*graph.example_inputs))
            for network in (cut(smaller, left), cut(graph, both))
        ]
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other)


def test_scores_are_shared_out_and_add_up() -> None:
    graph = traced("Residual")
    same = correspondence(graph, graph.all_kept(), graph)
    scores = np.arange(float(graph.n_units))
    assert (same.carried_back(scores) == scores).all()
    split = type(same)(np.array([[0, 0], [0, 1], [1, 2], [2, 2]]), 4)
    assert split.carried_back(np.array([3.0, 4.0, 5.0])).tolist() == [1.5, 1.5, 9.0, 0.0]
    assert split.known.tolist() == [True, True, True, False]


# ---- plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("name", NAMES)
def test_a_plan_in_steps_is_one_plan_of_the_original(name: str, scope: str) -> None:
    graph = traced(name)
    stepped = in_steps(name, Budget(ratio=0.4, of="macs", scope=scope))
    plan = stepped.plan
    assert plan.reached >= plan.asked == 0.4
    assert [step.asked for step in stepped.steps] == pytest.approx([0.4 / 3, 0.8 / 3, 0.4])
    assert stepped.steps[-1].units == plan.before.units - plan.after.units
    units = [step.units for step in stepped.steps]
    assert units == sorted(units)
    kept = check_coalition(graph, plan.kept(graph))
    pruned, masked = gp.prune(graph, plan), gp.mask(graph, plan)
    with torch.no_grad():
        outputs = [network(*graph.example_inputs) for network in (pruned, masked)]
    for one, other in zip(*map(torch.utils._pytree.tree_leaves, outputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert kept.any()


def test_steps_are_nested() -> None:
    """What goes by the end of a step has gone for good."""
    graph, seen = traced("PaddedShortcut"), []

    def watched(network: DependencyGraph, data: CalibrationBatches | None, step: int) -> Ranking:
        return rank(network, data, criterion="random", seed=step)

    def built(kept: np.ndarray) -> torch.nn.Module:
        seen.append(kept)
        return cut(graph, kept)

    stepped = select_in_steps(graph, None, HALF, steps=4, rank=watched, build=built)
    seen.append(stepped.plan.kept(graph))
    assert len(seen) == 4
    for before, after in pairwise(seen):
        assert (after <= before).all()


def test_one_step_is_no_other_than_a_selection() -> None:
    ranking = rank(traced("Concat"), criterion="l1")
    stepped = in_steps("Concat", steps=1, criterion="l1")
    assert stepped.plan == select(ranking, ratio=0.5, of="macs")
    assert (stepped.ranking.scores == ranking.scores).all()


def test_scores_that_do_not_change_give_the_plan_of_one_step() -> None:
    graph = traced("PaddedShortcut")
    scores = np.random.default_rng(0).random(graph.n_units)
    current = [graph.all_kept()]

    def build_and_keep(kept: np.ndarray) -> torch.nn.Module:
        current.append(kept)
        return cut(graph, kept)

    def constant(network: DependencyGraph, data: object, step: int) -> Ranking:
        same = correspondence(graph, current[-1], network)
        own = np.zeros(network.n_units)
        own[same.pairs[:, 0]] = scores[same.pairs[:, 1]]
        return recording(network, own)

    budget = Budget(ratio=0.5, of="units")
    stepped = select_in_steps(graph, None, budget, steps=4, rank=constant, build=build_and_keep)
    assert stepped.plan.groups == select(recording(graph, scores), ratio=0.5).groups


def test_options_hold_in_every_step() -> None:
    graph = traced("PaddedShortcut")
    budget = Budget(ratio=0.4, of="macs", min_units=2, round_to=2)

    def protecting(network: DependencyGraph, data: object, step: int) -> Ranking:
        only = () if step else (graph.groups[1].name,)
        return rank(network, criterion="random", seed=step, skip=only)

    stepped = select_in_steps(
        graph, None, budget, steps=3, rank=protecting, build=lambda kept: cut(graph, kept)
    )
    assert stepped.plan.groups[1].removed_units == ()
    for group in stepped.plan.groups:
        left = group.units - len(group.removed_units)
        assert left == group.units or (left >= 2 and left % 2 == 0)


def test_the_last_ranking_removes_first_what_went_first() -> None:
    stepped = in_steps("PaddedShortcut", Budget(ratio=0.6, of="units"), steps=3, criterion="random")
    graph = traced("PaddedShortcut")
    assert stepped.ranking.graph is graph
    again = select(stepped.ranking, ratio=0.6)
    assert again.groups == stepped.plan.groups
    first = ~select(stepped.ranking, ratio=0.2).kept(graph)
    assert stepped.ranking.scores[first].max() < stepped.ranking.scores[~first].min()


def test_units_that_are_settled() -> None:
    ranking = rank(traced("Residual"), criterion="random")
    gone, locked = np.zeros((2, ranking.graph.n_units), bool)
    best, worst = np.argsort(ranking.scores)[[-1, 0]]
    gone[best], locked[worst] = True, True
    for scope in ("group", "global"):
        budget = Budget(ratio=0.5, of="macs", scope=scope)
        kept = select_within(ranking, budget, gone, locked).kept(ranking.graph)
        assert not kept[best]
        assert kept[worst]


# ---- what steps rank by -------------------------------------------------------------------------


def digits(count: int = 40) -> tuple[torch.Tensor, ...]:
    graph = traced("Residual")
    shape = graph.example_inputs[0].shape[1:]
    dtype = graph.example_inputs[0].dtype
    return (torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)).to(dtype),)


def test_later_steps_are_faithful_to_the_unpruned_network() -> None:
    graph = traced("Residual")
    kept = random_kept(graph, 0.3, 0)
    smaller = trace(cut(graph, kept), graph.example_inputs)
    data = as_batches(digits(10), batch_size=4)
    evaluator = Evaluator(smaller, with_reference(graph, data, kept))
    unpruned = torch.cat([graph.program.module(*batch.inputs) for batch in data]).detach()
    found = torch.cat([evaluator.reference(k) for k in range(len(evaluator.batches))])
    torch.testing.assert_close(found.reshape(unpruned.shape), unpruned)
    own = torch.cat([Evaluator(smaller, data).reference(0)])
    assert not torch.allclose(own, found[: len(own)])


def test_steps_on_data_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced("Residual")
    runs = [
        gp.select_in_steps(graph, digits(), "taylor", seed=3, steps=2, ratio=0.3, of="macs")
        for _ in range(2)
    ]
    assert runs[0].plan == runs[1].plan
    assert (runs[0].ranking.scores == runs[1].ranking.scores).all()


def test_networks_are_repaired_between_steps() -> None:
    graph, data = traced("Residual"), as_batches(digits())
    kept = random_kept(graph, 0.3, 0)
    assert build(graph, kept, data, Repairing()).changed
    assert not build(graph, kept, None, Repairing()).changed
    assert not build(graph, kept, data, Repairing(method="none")).changed


def test_what_is_refused() -> None:
    with pytest.raises(OptionError, match="steps 0 is less than 1"):
        in_steps("Residual", steps=0)
    with pytest.raises(BudgetError, match="can go"):
        in_steps("Residual", Budget(ratio=0.99, of="macs"), steps=2)
