"""benchmarks/paper.py: the pieces on small networks."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import graphprune as gp
from benchmarks import paper
from benchmarks.contest.table import markdown
from benchmarks.lowdata.subjects import Images
from benchmarks.reproduction import lowdata, robustness, toy, untrained
from benchmarks.reproduction.cases import Case, accuracy, convolutional, dense, digits, split
from benchmarks.reproduction.metrics import METRICS
from graphprune.surgery import PrunedModel


@pytest.fixture(scope="module")
def case() -> Case:
    torch.manual_seed(0)
    _, pool, test = split(digits())
    return Case("tiny", dense(6).eval(), pool.part(slice(40)), test.part(slice(60)))


# ---- networks and images ------------------------------------------------------------------------


def test_digits_are_split_without_overlap() -> None:
    whole = digits()
    parts = split(whole)
    assert [len(part) for part in parts] == [1000, 300, 497]
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    assert all(len(part.y.unique()) == 10 for part in parts)
    assert float(whole.x.min()) == -1
    assert float(whole.x.max()) == 1


@pytest.mark.parametrize("build", [dense, convolutional])
def test_networks_take_digits(build: type) -> None:
    x = digits().x[:3]
    assert build().eval()(x).shape == (3, 10)
    assert gp.trace(build().eval(), (x,)).n_units > 100


def test_draws_depend_on_the_seed_alone(case: Case) -> None:
    assert torch.equal(case.drawn(10, 1).x, case.drawn(10, 1).x)
    assert not torch.equal(case.drawn(10, 1).x, case.drawn(10, 2).x)


# ---- the toy network ----------------------------------------------------------------------------


def test_toy_values_are_those_of_every_order() -> None:
    pairs = torch.tensor([[1.0, 4.0], [6.0, 2.0], [3.0, 3.0]])
    game = toy.LargerGame(toy.LargerOfTwo(), pairs)
    expected = np.zeros(4)
    for order in permutations(range(4)):
        present = torch.zeros(1, 4, dtype=torch.bool)
        before = game.values(present).mean()
        for unit in order:
            present[0, unit] = True
            after = game.values(present).mean()
            expected[unit] += float(after - before) / 24
            before = after
    np.testing.assert_allclose(
        toy.ExactEstimator().estimate(game).values, expected, rtol=1e-6, atol=1e-7
    )


def test_without_its_harmful_unit_the_toy_is_exact() -> None:
    pairs = torch.tensor([[1.0, 4.0], [6.0, 2.0]])
    game = toy.LargerGame(toy.LargerOfTwo(), pairs)
    without = game.values(torch.tensor([[True, True, True, False]]))
    assert without.abs().max() < 1e-6
    assert (game.values(torch.ones(1, 4, dtype=torch.bool)) < -0.1).all()


def test_toy_reproduces_the_published_figures() -> None:
    found = {each.metric: each.scores for each in toy.toy()}
    # The published values are of 100 pairs of its own: their spread is some per cent.
    np.testing.assert_allclose(found["Shapley, exact"], (0.80, 0.76, 4.96, -1.04), atol=0.12)
    np.testing.assert_allclose(found["weight norm"], (0.5, 2, 2, 2))
    np.testing.assert_allclose(found["APoZ"], (0.5, 0.5, 1, 1), atol=0.03)


# ---- untrained networks -------------------------------------------------------------------------


@pytest.mark.slow
def test_untrained_networks_get_better() -> None:
    found = untrained.untrained(0, width=256)
    assert found.after > found.before + 0.1
    assert found.after > found.control + 0.1
    assert 0.3 < found.kept < 0.9


# ---- layerwise robustness and fine-tuning -------------------------------------------------------


def test_robustness_has_every_metric_and_seed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [METRICS[2], METRICS[7]]
    monkeypatch.setattr(robustness, "METRICS", chosen)
    found = robustness.robustness(case, 20, 2)
    assert [each.metric for each in found] == ["weight norm", "random"]
    norm, random = (each.areas for each in found)
    assert norm[0] == norm[1]
    assert random[0] != random[1]
    fewer = robustness.robustness(case, 20, 2, judges=30)
    assert fewer[0].areas != norm
    first = replace(case, test=case.test.part(slice(30)))
    assert robustness.robustness(first, 20, 2) == fewer


def test_metrics_are_the_papers(case: Case) -> None:
    graph = gp.trace(case.model, (case.pool.x[:2],))
    scores = {m.name: m.rank(graph, case.drawn(20, 0), 0).scores for m in METRICS}
    assert len({each.tobytes() for each in scores.values()}) == len(METRICS)
    published = {metric.name for metric in METRICS if metric.published}
    assert published == set(robustness.PUBLISHED)
    assert set(lowdata.PUBLISHED) <= published


def test_tuning_stops_and_returns_the_best_epoch(case: Case) -> None:
    images = case.pool
    before = lowdata._loss(case.model, images.part(slice(8)))
    found = lowdata.tuned(case.model, images, 20, 0)
    assert lowdata._loss(found, images.part(slice(8))) < before
    assert not found.training
    # Shuffled labels teach nothing that holds for others: the network stays what it was.
    torch.manual_seed(0)
    good = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    with torch.no_grad():
        good[1].weight.copy_(30 * torch.eye(10, 64))
    x = torch.eye(10, 64).reshape(10, 1, 8, 8).repeat(5, 1, 1, 1)
    wrong = Images(x, torch.cat([torch.arange(10), 9 - torch.arange(10).repeat(4)]))
    kept = lowdata.tuned(good, wrong, 10, 0)
    assert torch.equal(kept[1].weight, good[1].weight)  # type: ignore[index]


def test_every_layer_loses_the_same_share(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []

    def untouched(model: PrunedModel, images: Images, epochs: int, seed: int) -> nn.Module:
        widths.append([len(p) for name, p in model.named_parameters() if name.endswith("bias")])
        return model

    monkeypatch.setattr(lowdata, "METRICS", [METRICS[2]])
    monkeypatch.setattr(lowdata, "tuned", untouched)
    monkeypatch.setattr(lowdata, "KEPT", (0.5,))
    (found,) = lowdata.prune_and_tune(case, 20, 2, 1)
    assert widths == [[3, 3, 10]] * 2
    assert found.cut == found.tuned
    assert (found.metric, found.kept, found.images) == ("weight norm", 0.5, 20)


def test_accuracy(case: Case) -> None:
    right = case.model(case.test.x).argmax(1) == case.test.y
    assert accuracy(case.model, case.test) == pytest.approx(float(right.double().mean()))


# ---- the command --------------------------------------------------------------------------------

RESULTS: dict[str, list[object]] = {
    "toy": [toy.Toy("APoZ", (0.5, 0.5, 1.0, 1.0))],
    "untrained": [untrained.Grown(0, 0.1, 0.5, 0.12, 0.6)],
    "robustness": [robustness.Areas("mlp", "Taylor", (0.1, 0.3))],
    "lowdata": [
        lowdata.Tuned("mlp", "random", kept, 100, (0.3, 0.5), (0.6, 0.8)) for kept in lowdata.KEPT
    ],
}


def test_results_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "paper.json"
    paper.write(out, RESULTS)
    assert json.loads(out.read_text())["format"] == paper.FORMAT
    assert paper.read(out) == RESULTS
    assert paper.main(["--out", str(out), "--table", "--markdown"]) == 0
    text = capsys.readouterr().out
    assert "| Taylor | 0.200 ± 0.141 | 0.47 |" in text
    assert "| random | 40 / 40 / 40 → 70 / 70 / 70 | 85.7 / 63.6 / 13.0 |" in text
    assert "| 0 | 10.0% | 50.0% | 12.0% | 60% |" in text


def test_new_results_replace_those_of_the_same_cell() -> None:
    first = RESULTS["lowdata"]
    again = replace(first[0], tuned=(0.9, 0.9))  # type: ignore[type-var]
    assert paper.merged(first, [again]) == [*first[1:], again]
    other = replace(again, images=50)
    assert paper.merged(first, [other]) == [*first, other]
    grown = RESULTS["untrained"]
    assert paper.merged(grown, [replace(grown[0], kept=0.7)])[0].kept == 0.7  # type: ignore[type-var]


def test_parts_are_run_and_added(tmp_path: Path) -> None:
    out = tmp_path / "paper.json"
    paper.write(out, {"untrained": RESULTS["untrained"]})
    assert paper.main(["toy", "--out", str(out)]) == 0
    assert set(paper.read(out)) == {"toy", "untrained"}


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        paper.parsed(["toys"])
    assert "robustness" in capsys.readouterr().err


def test_tables_show_what_there_is() -> None:
    assert "the paper" in markdown([robustness.table(RESULTS["robustness"])])
