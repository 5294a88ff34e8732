"""Weighing: the plan whose repaired network is nearest to the unpruned one is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.building import Repairing
from graphprune.data import CalibrationBatches, as_batches
from graphprune.errors import OptionError, SurgeryError
from graphprune.fidelity import Judge, rises
from graphprune.graph import DependencyGraph, trace
from graphprune.ranking import Ranking, RefitScores, split_by_group
from graphprune.repairs import repair
from graphprune.selection import Budget, select_within
from graphprune.steps import LastStep, Step, Stepped, weigh_if
from graphprune.surgery import cut
from graphprune.weighing import MASKED, MORE_SHARES, SHARES, Share, weigh
from tests.exchanging.test_exchanging import images
from tests.traced import traced

HALF = Budget(ratio=0.5, of="macs")
LEAST_SQUARES = Repairing(method="least-squares")
NAMES = ("Residual", "PaddedShortcut", "Depthwise", "PackedAttention")


def knowing(graph: DependencyGraph, seed: int = 0) -> Ranking:
    """Return a ranking of random values in both games, which have nothing to do with each other."""
    generator = np.random.default_rng(seed)
    masked, average, greedy = generator.random((3, graph.n_units)) + 0.1
    groups = split_by_group(graph, masked, 0.1 * masked, refit=RefitScores(average, greedy))
    return Ranking(graph=graph, groups=groups, criterion="shapley", game="network")


def _left(ranking: Ranking, data: CalibrationBatches, method: str) -> torch.Tensor:
    """Return how far a plan's network is from the unpruned one on images that did not repair it."""
    graph = ranking.graph
    kept = select_within(ranking, HALF).kept(graph)
    one, other = data.split(data.n_images // 2)
    return torch.cat(
        [
            Judge(graph, judging).divergences(repair(cut(graph, kept), fitted, method).model, kept)
            for fitted, judging in ((one, other), (other, one))
        ]
    )


# ---- what is tried and kept ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("method", "shares"), [("least-squares", SHARES), ("bias", MORE_SHARES)])
def test_the_nearest_network_is_kept(name: str, method: str, shares: tuple[Share, ...]) -> None:
    graph = traced(name)
    ranking, data = knowing(graph), images(graph, 40)
    found = weigh(ranking, data, HALF, Repairing(method=method))
    assert found is not None
    assert found.n_images == 40
    assert {each.share for each in found.tried} == {*shares, MASKED}
    for each in found.tried:
        expected = ranking.weighed(each.share.refit, greedy=each.share.greedy)
        np.testing.assert_array_equal(each.ranking.scores, expected.scores)
        assert each.plan == select_within(each.ranking, HALF)
    assert found.best is found.tried[0]
    others = [each.divergence for each in found.tried[1:]]
    assert others == sorted(others)
    each_image = {w.share: _left(w.ranking, data, method) for w in found.tried}
    for each in found.tried:
        assert each.divergence == pytest.approx(float(each_image[each.share].mean()), rel=1e-6)
    ahead = min(shares, key=lambda share: float(each_image[share].mean()))
    expected = MASKED if rises(each_image[ahead] - each_image[MASKED]) else ahead
    assert found.best.share == expected


def test_either_weight_can_be_the_better_one() -> None:
    graph = traced("Residual")
    data = images(graph, 40)
    kept = {
        found.best.share
        for seed in range(12)
        if (found := weigh(knowing(graph, seed), data, HALF, LEAST_SQUARES)) is not None
    }
    assert kept == {*SHARES, MASKED}


def test_a_long_training_is_not_done_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced("Residual")
    data, asked = images(graph, 40), []

    def watched(*arguments: object) -> object:
        asked.append(arguments[3])
        return built(*arguments)  # type: ignore[arg-type]

    from graphprune import weighing

    built = weighing.build
    monkeypatch.setattr(weighing, "build", watched)
    assert weigh(knowing(graph), data, HALF, Repairing(method="distill", seed=7)) is not None
    assert asked == [Repairing(method="least-squares", seed=7)] * 6


def with_divergences(monkeypatch: pytest.MonkeyPatch, *found: list[float]) -> None:
    """Let both halves find the same of every plan."""
    left = iter([each for each in found for _ in range(2)])
    monkeypatch.setattr(
        Judge, "divergences", lambda *arguments: torch.tensor(next(left), dtype=torch.float64)
    )


NAN = float("nan")


@pytest.mark.parametrize(
    ("average", "greedy", "masked", "kept"),
    [
        ([1.0, 2.0, 3.0], [1.2, 2.2, 3.2], [1.1, 2.1, 3.1], SHARES[0]),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 2.9], [1.1, 2.1, 3.1], SHARES[1]),
        ([1.0, 2.0, 3.0], [0.9, 1.9, 2.9], [0.8, 1.8, 2.8], MASKED),  # on every image
        ([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [0.1, 2.1, 3.7], SHARES[0]),  # by less than an error
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], SHARES[0]),
        ([1.0, NAN, 3.0], [5.0, 6.0, 8.0], [5.0, 6.5, 7.2], SHARES[1]),
        ([1.0, NAN, 3.0], [1.0, NAN, 3.0], [5.0, 6.0, 7.0], MASKED),
        ([5.0, 6.0, 7.0], [1.0, NAN, 3.0], [1.0, 2.0, NAN], SHARES[0]),
        ([NAN, NAN, NAN], [NAN, 1.0, NAN], [NAN, 1.0, NAN], SHARES[0]),
    ],
)
def test_the_nearest_ahead_is_kept_unless_it_is_worse_by_more_than_chance(
    monkeypatch: pytest.MonkeyPatch,
    average: list[float],
    greedy: list[float],
    masked: list[float],
    kept: Share,
) -> None:
    graph = traced("Residual")
    with_divergences(monkeypatch, average, greedy, masked)
    found = weigh(knowing(graph), images(graph, 10), HALF, LEAST_SQUARES)
    assert found is not None
    assert found.best.share == kept
    by_share = {each.share: each.divergence for each in found.tried}
    for share, divergences in zip((*SHARES, MASKED), (average, greedy, masked), strict=True):
        finite = all(np.isfinite(divergences))
        assert by_share[share] == (pytest.approx(np.mean(divergences)) if finite else float("inf"))


def test_a_repair_that_overflows_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphprune import weighing

    built, tried = weighing.build, []

    def overflowing(*arguments: object) -> object:
        tried.append(arguments)
        if len(tried) == 1:  # one half of the first plan
            raise SurgeryError("repair 'least-squares' would make a.weight NaN", hint="-")
        return built(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(weighing, "build", overflowing)
    graph = traced("Residual")
    found = weigh(knowing(graph), images(graph, 40), HALF, LEAST_SQUARES)
    assert found is not None
    assert found.best.share in (SHARES[1], MASKED)
    assert found.tried[-1].share == SHARES[0]
    assert found.tried[-1].divergence == float("inf")


def test_one_image_repairs_and_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, left = traced("Residual"), iter([[2.0], [1.0], [3.0]])
    monkeypatch.setattr(Judge, "divergences", lambda *arguments: torch.tensor(next(left)))
    found = weigh(knowing(graph), images(graph, 1), HALF, LEAST_SQUARES)
    assert found is not None
    assert found.n_images == 1
    assert found.best.share == SHARES[1]


def test_every_plan_is_told() -> None:
    graph, told = traced("Residual"), []
    weigh(
        knowing(graph),
        images(graph),
        HALF,
        LEAST_SQUARES,
        lambda stage, done, total: told.append((stage, done, total)),
    )
    assert told == [("weighing", done, 6) for n in range(6) for done in (n, n + 1)]


# ---- nothing to weigh ---------------------------------------------------------------------------


def test_a_ranking_that_does_not_know_the_refit_game() -> None:
    graph = traced("Residual")
    ranking = gp.rank(graph, images(graph), "l2")
    assert weigh(ranking, images(graph), HALF, LEAST_SQUARES) is None
    with pytest.raises(OptionError, match="knows no values in the refit game"):
        ranking.weighed(0.5)


def test_no_repair_follows() -> None:
    graph = traced("Residual")
    assert weigh(knowing(graph), images(graph), HALF, Repairing(method="none")) is None


def test_a_plan_that_several_come_to_is_repaired_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced("Residual")
    ranking, told = knowing(graph), []
    groups = tuple(
        replace(group, refit=RefitScores(group.refit.average, group.refit.average))
        for group in ranking.groups
        if group.refit is not None
    )
    data, twins = images(graph, 40), replace(ranking, groups=groups)
    found = weigh(twins, data, HALF, LEAST_SQUARES, lambda *step: told.append(step))
    assert found is not None
    assert [each.share for each in found.tried].index(SHARES[0]) < 2
    one, other = (w for share in SHARES[:2] for w in found.tried if w.share == share)
    assert (one.plan, one.divergence) == (other.plan, other.divergence)
    assert told[-1] == ("weighing", 4, 4)  # two halves of two plans


def test_a_ranking_that_knows_averages_only() -> None:
    graph = traced("Residual")
    ranking = knowing(graph)
    groups = tuple(
        replace(group, refit=RefitScores(group.refit.average))
        for group in ranking.groups
        if group.refit is not None
    )
    found = weigh(replace(ranking, groups=groups), images(graph, 40), HALF, LEAST_SQUARES)
    assert found is not None
    assert {each.share for each in found.tried} == {SHARES[0], MASKED}


def test_plans_that_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced("Residual")
    ranking = knowing(graph)
    groups = tuple(
        replace(group, refit=RefitScores(group.scores, group.scores)) for group in ranking.groups
    )
    monkeypatch.setattr("graphprune.weighing.build", None)  # nothing is cut
    assert weigh(replace(ranking, groups=groups), images(graph), HALF, LEAST_SQUARES) is None


def test_a_network_without_predictions() -> None:
    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x).relu()).square().sum(1)

    graph = trace(Energy().eval(), (torch.randn(2, 6),))
    found = weigh(knowing(graph), as_batches((torch.randn(40, 6),)), HALF, LEAST_SQUARES)
    assert found is None


# ---- in a plan ----------------------------------------------------------------------------------


def stepped(ranking: Ranking, steps: int) -> Stepped:
    plan = select_within(ranking, HALF)
    step = Step(asked=0.5, reached=plan.reached, units=0)
    return Stepped(
        ranking=ranking,
        plan=plan,
        steps=(step,) * steps,
        last=LastStep(ranking=ranking, budget=HALF),
    )


def test_a_single_step_ends_in_the_best_plan() -> None:
    graph = traced("Residual")
    ranking, data = knowing(graph), images(graph, 40)
    found = weigh_if(stepped(ranking, 1), data, HALF, LEAST_SQUARES)
    assert found.weighed is not None
    best = found.weighed.best
    assert found.plan == best.plan
    assert found.ranking is found.last.ranking is best.ranking
    (step,) = found.steps
    assert (step.asked, step.reached) == (HALF.ratio, best.plan.reached)


def test_several_steps_or_no_images_stay_as_they_are() -> None:
    graph = traced("Residual")
    once, twice = (stepped(knowing(graph), steps) for steps in (1, 2))
    assert weigh_if(twice, images(graph), HALF, LEAST_SQUARES) is twice
    assert weigh_if(once, None, HALF, LEAST_SQUARES) is once


def test_from_python_as_prune_does_it() -> None:
    graph = traced("Residual")
    data = images(graph, 40)
    ranking = gp.rank(graph, data, seed=3)
    found = gp.weigh(ranking, data, ratio=0.5, of="macs", repair="least-squares", seed=3)
    assert found is not None
    plan = gp.select_in_steps(
        graph, data, seed=3, steps=1, ratio=0.5, of="macs", repair="least-squares"
    )
    assert plan.plan == found.best.plan
    assert plan.weighed is not None
    assert [w.divergence for w in plan.weighed.tried] == [w.divergence for w in found.tried]


# ---- weights and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("greedy", [False, True])
def test_scores_are_geometric_means_that_can_be_undone(share: float, greedy: bool) -> None:
    ranking = knowing(traced("Residual"))
    weighed = ranking.weighed(share, greedy=greedy)
    known = [g.refit.along(greedy=greedy) for g in ranking.groups if g.refit is not None]
    refit = np.concatenate(known)
    expected = ranking.scores ** (1 - share) * refit**share
    np.testing.assert_allclose(weighed.scores, expected, rtol=1e-12)
    stderr = np.concatenate([group.stderr for group in weighed.groups])
    np.testing.assert_allclose(stderr, (1 - share) * 0.1 * expected, rtol=1e-12)
    assert weighed.for_repair == "least-squares"
    for again in (weighed.weighed(0), weighed.ahead_of("none"), weighed.ahead_of("batchnorm")):
        assert again.for_repair is None
        for one, other in zip(again.groups, ranking.groups, strict=True):
            np.testing.assert_array_equal(one.scores, other.scores)
            np.testing.assert_array_equal(one.stderr, other.stderr)
            assert one.masked is None
    np.testing.assert_array_equal(weighed.weighed(0.5).scores, ranking.weighed(0.5).scores)
