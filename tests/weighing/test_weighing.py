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
from graphprune.ranking import Ranking, split_by_group
from graphprune.repairs import repair
from graphprune.selection import Budget, select_within
from graphprune.steps import LastStep, Step, Stepped, weigh_if
from graphprune.surgery import cut
from graphprune.weighing import MORE_SHARES, SHARES, weigh
from tests.exchanging.test_exchanging import images
from tests.traced import traced

HALF = Budget(ratio=0.5, of="macs")
LEAST_SQUARES = Repairing(method="least-squares")
NAMES = ("Residual", "PaddedShortcut", "Depthwise", "PackedAttention")


def knowing(graph: DependencyGraph, seed: int = 0) -> Ranking:
    """Return a ranking of random values in both games, which have nothing to do with each other."""
    generator = np.random.default_rng(seed)
    masked, refit = generator.random((2, graph.n_units)) + 0.1
    stderr = 0.1 * masked
    groups = split_by_group(graph, masked, stderr, refit=refit)
    return Ranking(graph=graph, groups=groups, criterion="shapley", game="network")


def _repaired(
    ranking: Ranking, data: CalibrationBatches, method: str, judge: Judge
) -> torch.Tensor:
    """Return how far the network of a ranking's plan is from the unpruned one once repaired."""
    graph = ranking.graph
    kept = select_within(ranking, HALF).kept(graph)
    return judge.divergences(repair(cut(graph, kept), data, method).model, kept)


# ---- what is tried and kept ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("method", "shares"), [("least-squares", SHARES), ("bias", MORE_SHARES)])
def test_the_nearest_network_is_kept(name: str, method: str, shares: tuple[float, ...]) -> None:
    graph = traced(name)
    ranking, data = knowing(graph), images(graph, 40)
    found = weigh(ranking, data, HALF, Repairing(method=method))
    assert found is not None
    assert found.n_images == 40
    assert sorted(each.refit for each in found.tried) == sorted(shares)
    for each in found.tried:
        np.testing.assert_array_equal(each.ranking.scores, ranking.weighed(each.refit).scores)
        assert each.plan == select_within(each.ranking, HALF)
    assert found.best is found.tried[0]
    others = [each.divergence for each in found.tried[1:]]
    assert others == sorted(others)
    # No other one is better by more than a standard error; those further ahead are worse by more.
    judge = Judge(graph, data)
    each_image = {w.refit: _repaired(w.ranking, data, method, judge) for w in found.tried}
    for each in found.tried:
        assert each.divergence == pytest.approx(float(each_image[each.refit].mean()), rel=1e-6)
    least = min(each_image, key=lambda share: float(each_image[share].mean()))
    within = [s for s in shares if s == least or not rises(each_image[s] - each_image[least])]
    assert found.best.refit == within[0]


def test_either_weight_can_be_the_better_one() -> None:
    graph = traced("Residual")
    data = images(graph, 40)
    kept = {
        found.best.refit
        for seed in range(12)
        if (found := weigh(knowing(graph, seed), data, HALF, LEAST_SQUARES)) is not None
    }
    assert kept == set(SHARES)


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
    assert asked == [Repairing(method="least-squares", seed=7)] * 2


def with_divergences(monkeypatch: pytest.MonkeyPatch, *found: list[float]) -> None:
    left = iter(found)
    monkeypatch.setattr(
        Judge, "divergences", lambda *arguments: torch.tensor(next(left), dtype=torch.float64)
    )


NAN = float("nan")


@pytest.mark.parametrize(
    ("ahead", "masked", "kept"),
    [
        ([1.0, 2.0, 3.0], [1.1, 2.1, 3.1], SHARES[0]),
        ([1.0, 2.0, 3.0], [0.9, 1.9, 2.9], SHARES[1]),  # on every image
        ([1.0, 2.0, 3.0], [0.1, 2.1, 3.7], SHARES[0]),  # by less than a standard error
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], SHARES[0]),
        ([1.0, NAN, 3.0], [5.0, 6.0, 7.0], SHARES[1]),
        ([5.0, 6.0, 7.0], [1.0, NAN, 3.0], SHARES[0]),
        ([NAN, NAN, NAN], [NAN, 1.0, NAN], SHARES[0]),
    ],
)
def test_what_looks_ahead_is_kept_unless_it_is_worse_by_more_than_chance(
    monkeypatch: pytest.MonkeyPatch, ahead: list[float], masked: list[float], kept: float
) -> None:
    graph = traced("Residual")
    with_divergences(monkeypatch, ahead, masked)
    found = weigh(knowing(graph), images(graph, 10), HALF, LEAST_SQUARES)
    assert found is not None
    assert found.best.refit == kept
    by_share = {each.refit: each.divergence for each in found.tried}
    for share, divergences in zip(SHARES, (ahead, masked), strict=True):
        finite = NAN not in divergences and all(np.isfinite(divergences))
        assert by_share[share] == (pytest.approx(np.mean(divergences)) if finite else float("inf"))


def test_a_repair_that_overflows_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphprune import weighing

    built, tried = weighing.build, []

    def overflowing(*arguments: object) -> object:
        tried.append(arguments)
        if len(tried) == 1:
            raise SurgeryError("repair 'least-squares' would make a.weight NaN", hint="-")
        return built(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(weighing, "build", overflowing)
    graph = traced("Residual")
    found = weigh(knowing(graph), images(graph, 40), HALF, LEAST_SQUARES)
    assert found is not None
    assert found.best.refit == SHARES[1]
    assert found.tried[1].divergence == float("inf")


def test_one_image_decides_by_its_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced("Residual")
    with_divergences(monkeypatch, [2.0], [1.0])
    found = weigh(knowing(graph), images(graph, 10), HALF, LEAST_SQUARES)
    assert found is not None
    assert found.best.refit == SHARES[1]


def test_every_plan_is_told() -> None:
    graph, told = traced("Residual"), []
    weigh(
        knowing(graph),
        images(graph),
        HALF,
        LEAST_SQUARES,
        lambda stage, done, total: told.append((stage, done, total)),
    )
    assert told == [("weighing", done, 2) for done in (0, 1, 1, 2)]


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


def test_plans_that_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced("Residual")
    ranking = knowing(graph)
    groups = tuple(replace(group, refit=group.scores) for group in ranking.groups)
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
def test_scores_are_geometric_means_that_can_be_undone(share: float) -> None:
    ranking = knowing(traced("Residual"))
    weighed = ranking.weighed(share)
    refit = np.concatenate([g.refit for g in ranking.groups if g.refit is not None])
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
