"""Candidates: the most faithful network is kept, judged by images that took no part."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.candidates import candidates, n_held_out
from graphprune.data import as_batches
from graphprune.errors import DataError, OptionError
from graphprune.fidelity import Judge
from graphprune.graph import DependencyGraph

IMAGES = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
NAMES = ("random", "l2", "taylor")


@pytest.fixture(scope="module")
def graph() -> DependencyGraph:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    return gp.trace(network.eval(), (IMAGES[:2],))


def test_the_best_comes_first_and_fidelities_are_those_of_images_held_out(
    graph: DependencyGraph,
) -> None:
    choice = gp.choose(graph, (IMAGES,), NAMES, ratio=0.5)
    divergences = [candidate.fidelity.kl for candidate in choice.candidates]
    assert divergences == sorted(divergences)
    assert {candidate.criterion for candidate in choice.candidates} == set(NAMES)
    rest, aside = as_batches((IMAGES,)).split(16)
    assert choice.n_images == aside.n_images == 16
    for candidate in choice.candidates:
        ranking = gp.rank(graph, rest, candidate.criterion)
        plan = gp.select(ranking, ratio=0.5)
        assert candidate.stepped.plan == plan
        network = gp.repair(gp.prune(graph, plan), rest, "auto")
        assert candidate.fidelity == Judge(graph, aside).judge(network, plan.kept(graph))
    assert choice.plan == choice.best.stepped.plan
    assert choice.plan.criterion == choice.ranking.criterion == choice.best.criterion


def test_a_choice_repeats(graph: DependencyGraph) -> None:
    one, two = (gp.choose(graph, (IMAGES,), NAMES, ratio=0.4, steps=2) for _ in range(2))
    assert [c.fidelity for c in one.candidates] == [c.fidelity for c in two.candidates]
    assert one.plan == two.plan


@pytest.mark.parametrize(("count", "aside"), [(32, 16), (60, 16), (100, 25), (256, 64)])
def test_a_quarter_judges(count: int, aside: int) -> None:
    assert n_held_out(as_batches(torch.zeros(count, 2))) == aside


def test_what_competes_by_default_exists(graph: DependencyGraph) -> None:
    assert {"shapley", "taylor", "fisher", "group-magnitude"} <= set(candidates())


def test_what_is_refused(graph: DependencyGraph) -> None:
    with pytest.raises(DataError, match="31 images are too few to choose"):
        gp.choose(graph, (IMAGES[:31],), NAMES, ratio=0.5)
    with pytest.raises(OptionError, match="no criteria to choose among"):
        gp.choose(graph, (IMAGES,), (), ratio=0.5)
    with pytest.raises(OptionError, match="criterion 'auto' compares the plans"):
        gp.rank(graph, (IMAGES,), "auto")
