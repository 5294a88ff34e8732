"""Comparisons: every row against doing it by hand; what is missing is found, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphprune as gp
from graphprune.building import Repairing
from graphprune.comparison import CompareOptions, Comparison, Images, arrange, compare
from graphprune.criteria import RankRequest, rank
from graphprune.data import CalibrationBatches
from graphprune.errors import BudgetError, OptionError
from graphprune.exchanging import exchange
from graphprune.fidelity import Judge
from graphprune.graph import DependencyGraph
from graphprune.ranking import Ranking
from graphprune.repairs import repair
from graphprune.selection import Budget, select, select_within
from graphprune.surgery import cut
from graphprune.weighing import weigh
from tests.comparison.subjects import OPTIONS, X, Y, data, graph_of, images


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(graph_of(), data(), None, OPTIONS)


def test_every_row_is_there(found: Comparison) -> None:
    keys = [(c.criterion, c.repair, c.asked, c.seed) for c in found.cells]
    assert keys == [
        (criterion, method, ratio, seed)
        for criterion in ("taylor", "l2", "random")
        for method in ("none", "batchnorm")
        for ratio in (0.2, 0.5)
        for seed in (0, 1)
    ]
    pairs = [(criterion, seed) for criterion in ("taylor", "l2", "random") for seed in (0, 1)]
    assert [(t.criterion, t.seed) for t in found.trials] == pairs
    assert [(r.criterion, r.seed) for r in found.robustness] == pairs
    assert len(found.oracle) == len(pairs) * len(found.sets) == 6 * 4
    assert found.complete
    assert found.notes == ()


def test_a_cell_is_what_the_functions_give(found: Comparison) -> None:
    graph, arranged = graph_of(), images()
    drawn = arranged.drawn(1)
    plan = select(rank(graph, drawn, criterion="taylor", seed=1), ratio=0.5, of="macs")
    kept = plan.kept(graph)
    pruned = repair(cut(graph, kept), drawn, method="batchnorm", seed=1).model
    expected = Judge(graph, arranged.judging).judge(pruned, kept)
    (cell,) = (
        c for c in found.cells
        if (c.criterion, c.seed, c.repair, c.asked) == ("taylor", 1, "batchnorm", 0.5)
    )  # fmt: skip
    assert (cell.accuracy, cell.agreement) == (expected.accuracy, expected.agreement)
    assert (cell.kl, cell.kl_stderr) == (expected.kl, expected.kl_stderr)
    assert cell.reached == cell.macs == plan.reached >= 0.5
    assert cell.repaired == "batchnorm"
    assert cell.units == 1 - plan.after.units / plan.before.units


def test_means_and_errors_over_seeds(found: Comparison) -> None:
    values = [
        c.accuracy for c in found.cells if (c.criterion, c.repair, c.asked) == ("l2", "none", 0.2)
    ]
    summary = found.of("l2", "none", 0.2)
    assert summary is not None
    assert summary.accuracy is not None
    assert summary.n_seeds == 2
    assert summary.accuracy.mean == pytest.approx(np.mean(values))
    assert summary.accuracy.stderr == pytest.approx(np.std(values, ddof=1) / 2**0.5)


def test_what_is_asked_twice_is_the_same(found: Comparison) -> None:
    def untimed(each: Comparison) -> Comparison:
        return replace(
            each,
            trials=tuple(replace(trial, seconds=0.0) for trial in each.trials),
            cells=tuple(replace(cell, seconds=0.0) for cell in each.cells),
        )

    assert untimed(compare(graph_of(), data(), None, OPTIONS)) == untimed(found)


def test_without_labels_and_seeds() -> None:
    options = CompareOptions(criteria=("l2",), ratios=(0.3,), seeds=1, repairs=("none",))
    found = compare(graph_of(), data(labels=False), None, options)
    (row, _) = found.summary
    assert row.accuracy is None
    assert row.agreement is not None
    assert row.agreement.stderr is None
    assert found.robustness == found.oracle == ()


def test_what_cannot_be_compared_is_noted_and_the_rest_goes_on() -> None:
    options = CompareOptions(
        criteria=("shapley@estimator=exact@budget=2", "l2"), ratios=(0.2, 0.99), seeds=1,
        repairs=("none",), floor=False,
    )  # fmt: skip
    found = compare(graph_of(), data(), None, options)
    assert [cell.asked for cell in found.cells] == [0.2]
    exact, unreachable = sorted(found.notes, key=lambda note: "l2" in note)
    assert exact.startswith("shapley@estimator=exact@budget=2 is left out: ")
    assert unreachable.startswith("l2: removing 99.0% of the macs is not reachable")


def test_rankings_are_made_for_what_their_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def recording(graph: DependencyGraph, images: CalibrationBatches, **settings: Any) -> Ranking:
        asked.append((settings["for_ratio"], settings["for_repair"]))
        return rank(graph, images, criterion="l2")

    monkeypatch.setattr("graphprune.comparison.running.criteria.rank", recording)
    options = CompareOptions(
        criteria=("shapley@for-ratio=0.1", "shapley@for-repair=least-squares"), ratios=(0.3,),
        seeds=1, repairs=("none",), floor=False,
    )  # fmt: skip
    compare(graph_of(), data(), None, options)
    assert asked == [(0.1, "auto"), (0.5, "least-squares")]


def test_plans_are_those_of_prune_for_the_repair_of_their_cell() -> None:
    options = replace(
        OPTIONS, criteria=("shapley", "shapley@exchange=no", "shapley@for-repair=none"),
        ratios=(0.65,), seeds=1, repairs=("none", "batchnorm"), floor=False, robustness=False,
        oracle=(),
    )  # fmt: skip
    graph, arranged = graph_of(), images()
    found = compare(graph, data(), None, options)
    cells = {(cell.criterion, cell.repair): cell for cell in found.cells}
    drawn, budget = arranged.drawn(0), Budget(ratio=0.65, of="macs")
    ranking = rank(graph, drawn)
    weighed = weigh(ranking, drawn, budget, Repairing(method="batchnorm"))
    assert weighed is not None
    traded, plain = exchange(ranking, drawn, budget).plan, select_within(ranking, budget)
    assert plain not in (weighed.best.plan, traded)  # else all of it could be left out
    plans = {
        ("shapley", "none"): traded,
        ("shapley@exchange=no", "none"): plain,
        ("shapley@for-repair=none", "none"): traded,
        ("shapley", "batchnorm"): weighed.best.plan,
        ("shapley@exchange=no", "batchnorm"): weighed.best.plan,
        ("shapley@for-repair=none", "batchnorm"): plain,
    }
    judge = Judge(graph, arranged.judging)
    assert set(cells) == set(plans)
    for (criterion, method), plan in plans.items():
        kept = plan.kept(graph)
        pruned = repair(cut(graph, kept), drawn, method=method).model
        assert cells[criterion, method].kl == judge.judge(pruned, kept).kl


def test_where_nothing_can_be_compared_the_reason_is_raised() -> None:
    alone = CompareOptions(criteria=("l2",), floor=False)
    with pytest.raises(BudgetError, match="not reachable"):
        compare(graph_of(), data(), None, replace(alone, ratios=(0.999,)))
    with pytest.raises(OptionError, match="takes no estimator"):
        compare(
            graph_of(), data(), None, replace(alone, criteria=("leave-one-out@estimator=exact",))
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratios": ()}, "there are no ratios"),
        ({"ratios": (0.2, 0.2)}, "0.2 is named twice among the ratios"),
        ({"ratios": (1.0,)}, "outside"),
        ({"seeds": 0}, "there are no seeds"),
        ({"seeds": (1, -1)}, "seed -1 is negative"),
        ({"repairs": ("none", "hope")}, "repair 'hope' is none of auto, batchnorm"),
        ({"of": "latency"}, "of 'latency' is none of units, params, macs"),
        ({"points": 0}, "0 points are too few"),
        ({"skip": ("layer9",)}, "matches no group"),
        ({"criteria": ("tailor",)}, "criterion 'tailor' is none of"),
    ],
)
def test_what_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        compare(graph_of(), data(), None, replace(OPTIONS, **change))  # type: ignore[arg-type]


def test_protected_groups_stay() -> None:
    graph = graph_of()
    first = graph.groups[0].name
    options = CompareOptions(
        criteria=("l2",), ratios=(0.2,), seeds=1, repairs=("none",), skip=(first,), of="units"
    )
    found = compare(graph, data(), None, options)
    assert found.conditions.protected == (first,)
    assert found.conditions.scope == "group"
    assert all(cell.units == pytest.approx(2 / 14) for cell in found.cells)


def test_the_judge_sees_labels_that_criteria_do_not() -> None:
    seen: list[tuple[bool, int]] = []

    def mine(request: RankRequest) -> np.ndarray:
        seen.append((request.images.has_labels, request.images.n_images))
        return np.arange(float(request.graph.n_units))

    found = gp.compare(
        graph_of(), (X[:20], Y[:20]), [mine], [0.3], [4], eval_data=(X[20:], Y[20:]),
        labels=False, calibration=12, repairs=["none"], floor=False,
    )  # fmt: skip
    assert seen == [(False, 12)]
    assert found.cells[0].accuracy is not None
    assert found.unpruned.n_images == 20


def test_images_are_apart() -> None:
    arranged: Images = arrange(data())
    ids = {tuple(x.flatten().tolist()) for batch in arranged.judging for x in batch.inputs[0]}
    for seed in (0, 1):
        drawn = {
            tuple(x.flatten().tolist()) for batch in arranged.drawn(seed) for x in batch.inputs[0]
        }
        assert not ids & drawn
