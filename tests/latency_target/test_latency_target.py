"""The search for a measured share of the latency, with clocks made up for the purpose."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune import latency_target
from graphprune.cost import CostModel, LatencyModel
from graphprune.errors import BudgetError, OptionError
from graphprune.graph import DependencyGraph, Kept, trace
from graphprune.latency import Bench, FileLatency, Interval
from graphprune.latency_target import (
    TOLERANCE,
    LatencyOptions,
    ReachedLatency,
    latency_model,
    reach_latency,
)
from graphprune.ranking import Ranking, split_by_group
from graphprune.selection import Budget, PruningPlan, select
from graphprune.steps import Stepped, select_in_steps
from graphprune.surgery import cut
from tests.selection.test_latency import model_of, ranking_of

Remains = Callable[[float], float]


def bench_of(remains: float) -> Bench:
    """Return what timing would find if a share of the latency remained."""

    def interval(value: float) -> Interval:
        return Interval(value, value, value, 11)

    files = tuple(
        FileLatency(Path(name), 1, interval(seconds), "cpu")
        for name, seconds in (("original.onnx", 1.0), ("candidate.onnx", remains))
    )
    return Bench(files, (interval(1 / remains),), 1, 1, "cpu")


def search(ratio: float, really: Remains, fixed: float = 0.0) -> tuple[ReachedLatency, list[float]]:
    """Search on a network whose measured latency follows from the share of MACs that remain."""
    ranking = ranking_of("PaddedShortcut")
    graph = ranking.graph
    model = model_of(graph, fixed=fixed)
    measured = []

    def choose(asked: float) -> PruningPlan:
        return select(ranking, ratio=asked, of="latency", scope="global", latency=model)

    def measure(kept: Kept) -> Bench:
        costs = select(ranking, ratio=0, latency=model).before
        left = macs_of(graph, kept) / costs.macs
        measured.append(1 - really(left))
        return bench_of(really(left))

    found = latency_target._Search(graph, ratio, choose, measure).run()
    return found, measured


def macs_of(graph: DependencyGraph, kept: Kept) -> int:
    return CostModel(graph).total(kept).macs


def test_a_right_prediction_is_measured_once() -> None:
    found, measured = search(0.4, lambda left: left)
    assert len(measured) == found.tries == 1
    assert 0.4 <= found.plan.reached <= 0.45  # widths are whole
    assert found.plan.asked == 0.4
    assert found.plan.after.latency == pytest.approx(1 - found.plan.reached)


@pytest.mark.parametrize("really", [lambda left: 0.3 + 0.7 * left, lambda left: left**1.4])
def test_a_wrong_prediction_is_corrected(really: Remains) -> None:
    found, measured = search(0.4, really)
    assert len(measured) > 1
    assert found.tries == len(measured)
    assert abs(found.plan.reached - 0.4) <= 2 * TOLERANCE  # widths are whole
    assert found.plan.reached in [pytest.approx(share) for share in measured]


def test_between_too_little_and_too_much_lies_what_was_asked_for() -> None:
    """A model that is wrong by another factor for every plan: correcting by one goes to and fro."""
    network = nn.Sequential(nn.Linear(16, 200), nn.ReLU(), nn.Linear(200, 8))
    graph = trace(network.eval(), (torch.randn(2, 16),))
    scores = np.random.default_rng(0).random(graph.n_units)
    ranking = Ranking(graph=graph, groups=split_by_group(graph, scores), criterion="test")
    model, whole = model_of(graph), macs_of(graph, graph.all_kept())

    def measure(kept: Kept) -> Bench:
        left = macs_of(graph, kept) / whole
        return bench_of(left + 0.2 / (1 + np.exp(-30 * (left - 0.5))))

    found = latency_target._Search(graph, 0.4, partial(_choose, ranking, model), measure).run()
    assert found.tries > 2
    assert found.plan.reached == pytest.approx(0.4, abs=TOLERANCE)


def test_of_plans_that_remove_enough_the_smallest_wins() -> None:
    found, measured = search(0.4, lambda left: 0.3 + 0.7 * left)
    enough = [share for share in measured if share >= 0.4 - TOLERANCE]
    assert found.plan.reached == pytest.approx(min(enough))


def test_a_share_that_is_never_measured_is_a_finding() -> None:
    with pytest.raises(BudgetError, match=r"40.0% of the latency is not reachable: .* measured"):
        search(0.4, lambda left: 0.9 + 0.1 * left)


def test_a_share_that_is_not_even_predicted_is_a_finding() -> None:
    with pytest.raises(BudgetError, match="can go"):
        search(0.9, lambda left: left, fixed=1.0)


def in_steps(graph: DependencyGraph, model: LatencyModel, ratio: float, steps: int) -> Stepped:
    """Plan in steps; later ones score units anew, so that plans differ from one step's."""

    def rank(network: DependencyGraph, data: object, step: int) -> Ranking:
        scores = np.random.default_rng(step).random(network.n_units)
        return Ranking(graph=network, groups=split_by_group(network, scores), criterion="test")

    return select_in_steps(
        graph,
        None,
        Budget(ratio=ratio, of="latency", scope="global", latency=model),
        steps=steps,
        rank=rank,
        build=lambda kept: cut(graph, kept),
    )


@pytest.mark.parametrize("really", [lambda left: 0.3 + 0.7 * left, lambda left: left**1.4])
def test_the_last_of_several_steps_is_corrected(really: Remains) -> None:
    layers = [nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)]
    graph = trace(nn.Sequential(*layers).eval(), (torch.randn(2, 16),))
    found = in_steps(graph, model_of(graph), 0.4, steps=2)
    assert [step.asked for step in found.steps] == [0.2, 0.4]
    # What the steps reach is as the model says, which is made of MACs.
    assert found.plan.reached == pytest.approx(
        1 - found.plan.after.macs / found.plan.before.macs, rel=1e-3
    )
    whole = macs_of(graph, graph.all_kept())
    reached = latency_target._Search(
        graph,
        0.4,
        found.last.select,
        lambda kept: bench_of(really(macs_of(graph, kept) / whole)),
    ).run()
    assert reached.tries > 1
    assert abs(reached.plan.reached - 0.4) <= TOLERANCE
    # What the first step removed is gone in every plan that is tried.
    assert found.last.gone is not None
    assert not reached.plan.kept(graph)[found.last.gone].any()
    ended = found.ending_in(reached.plan)
    assert ended.steps[0] == found.steps[0]
    assert ended.steps[-1].reached == reached.plan.reached
    assert ended.ranking is found.ranking


def test_a_choice_among_criteria_goes_by_the_model() -> None:
    graph = ranking_of("Residual").graph
    example = graph.example_inputs[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, *example.shape[1:], generator=generator, dtype=example.dtype)
    model = model_of(graph)
    names = ("l2", "random")
    choice = gp.choose(graph, (x,), names, ratio=0.3, of="latency", latency=model, steps=2)
    assert {each.criterion for each in choice.candidates} == set(names)
    for each in choice.candidates:
        assert each.stepped.plan.of == "latency"
        assert each.stepped.plan.reached >= 0.3
        assert each.stepped.last.select(0.4).reached >= 0.4
    with pytest.raises(OptionError, match="needs a measured latency model"):
        gp.choose(graph, (x,), names, ratio=0.3, of="latency")
    with pytest.raises(OptionError, match="needs a measured latency model"):
        gp.select_in_steps(graph, (x,), "l2", steps=2, ratio=0.3, of="latency")


def test_files_are_exported_and_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the clock is real: a file's bytes are its seconds."""
    timed: list[list[str]] = []

    def by_size(paths: list[Path], options: object, progress: object) -> Bench:
        timed.append([path.name for path in paths])
        return bench_of(paths[-1].stat().st_size / paths[0].stat().st_size)

    monkeypatch.setattr(latency_target, "bench", by_size)
    monkeypatch.setattr(
        latency_target, "model_latency", lambda graph, whole, **options: model_of(graph)
    )
    ranking = ranking_of("Residual")
    original, options = tmp_path / "original.onnx", LatencyOptions(threads=1)
    model = latency_model(ranking.graph, original, options)
    choose = partial(_choose, ranking, model)
    found = reach_latency(ranking.graph, 0.05, choose, original, options)
    assert original.is_file()
    assert timed[0] == ["original.onnx"]
    assert timed[1] == ["original.onnx", "candidate.onnx"]
    assert found.plan.reached >= 0.05 - TOLERANCE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original.onnx"]


def _choose(ranking: Ranking, model: LatencyModel, ratio: float) -> PruningPlan:
    return select(ranking, ratio=ratio, of="latency", latency=model)


@pytest.mark.slow
def test_on_this_machine(tmp_path: Path) -> None:
    """Real clocks: a wide network gets faster by about what was asked for, in fast widths."""
    wide = nn.Sequential(
        nn.Conv2d(3, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3), nn.ReLU(), nn.Conv2d(128, 64, 3)
    )
    graph = trace(wide.eval(), (torch.randn(2, 3, 24, 24),))
    scores = np.random.default_rng(0).random(graph.n_units)
    ranking = Ranking(graph=graph, groups=split_by_group(graph, scores), criterion="test")
    original, options = tmp_path / "original.onnx", LatencyOptions(threads=1)
    model = latency_model(graph, original, options)
    found = reach_latency(graph, 0.3, partial(_choose, ranking, model), original, options)
    assert found.plan.reached >= 0.3 - TOLERANCE
    for group in found.plan.groups:
        assert group.units - len(group.removed_units) in model.widths[group.name]
