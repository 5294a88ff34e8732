"""benchmarks/quality.py: subjects, contenders, cells and verdicts, on tiny networks and data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import graphprune as gp
from benchmarks import quality
from benchmarks.contest.table import markdown
from benchmarks.lowdata import rivals
from benchmarks.lowdata.cells import Cell, Key, Store, packed, read
from benchmarks.lowdata.contenders import (
    Contender,
    Stage,
    Timed,
    game,
    iterated,
    one_shot,
    ours,
)
from benchmarks.lowdata.measuring import UNPRUNED, Plan, measure, run
from benchmarks.lowdata.photographs import (
    PHOTOGRAPHED,
    lite_network,
    photographs,
    shipped_weights,
)
from benchmarks.lowdata.subjects import Images, Sources, Subject, find, hits
from benchmarks.lowdata.table import tables
from benchmarks.lowdata.verdict import columns, control, difference, entries, verdicts
from benchmarks.networks import ResidualNetwork
from graphprune.cost import CostModel
from graphprune.errors import BudgetError
from tests.helpers import randomize


def images(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 32, 32, generator=generator)
    return Images(x, torch.randint(0, 10, (count,), generator=generator))


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    model = randomize(ResidualNetwork(1, (4, 6, 8))).eval()
    streams = ("conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2")
    return Subject("tiny", model, images(20, 0), images(10, 1), images(13, 2), streams)


@pytest.fixture
def stage(subject: Subject) -> Stage:
    graph = gp.trace(subject.model, (subject.pool.x[:2],))
    return Stage(subject, graph, subject.calibration(8, 0), 0)


# ---- subjects -----------------------------------------------------------------------------------


def test_calibration_images_depend_on_the_seed_alone(subject: Subject) -> None:
    first, same, other = (subject.calibration(8, seed) for seed in (0, 0, 1))
    assert torch.equal(first.x, same.x)
    assert not torch.equal(first.x, other.x)
    inside = (first.x[:, None] == subject.pool.x[None]).flatten(2).all(2)
    assert (inside.sum(1) == 1).all()
    assert torch.equal(subject.pool.y[inside.nonzero()[:, 1]], first.y)
    with pytest.raises(ValueError, match="21 calibration images"):
        subject.calibration(21, 0)


def test_hits_are_counted_in_order() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.full((len(x),), 3), 10)

    labels = torch.arange(103) % 10
    found = hits(Constant(), Images(torch.zeros(103, 1), labels))
    assert torch.equal(found, labels == 3)


def test_images_of_a_network_are_apart(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "data").mkdir()
    torch.save(ResidualNetwork(3).state_dict(), tmp_path / "models" / "resnet20.pt")
    pixels = np.arange(40 * 32 * 32 * 3, dtype=np.int64).reshape(40, 32, 32, 3) % 251
    for name, part in (("calibration", slice(10)), ("eval", slice(10, 40))):
        file = tmp_path / "data" / f"cifar10_{name}.npz"
        np.savez(file, x=pixels[part].astype(np.uint8), y=np.arange(40)[part])
    found = find("resnet20", Sources(tmp_path, None, None, 224, 8))
    assert found.pool.y.tolist() == [*range(10)]
    assert found.test.y.tolist() == [*range(10, 18)]
    assert found.selection.y.tolist() == [*range(25, 29)]
    assert found.streams == ("conv1", *(f"layer{s}.{b}.conv2" for s in (1, 2, 3) for b in range(3)))


def test_photographs_are_classes_in_order_of_names(tmp_path: Path) -> None:
    for place in range(5):
        picture = Image.new("RGB", (40 + place, 30), (50 * place, 0, 255))
        picture.save(tmp_path / f"n{place}.JPEG", quality=100)
    (tmp_path / "README.md").write_text("not a photograph")
    x, y = photographs(tmp_path, 16)
    assert x.shape == (5, 3, 16, 16)
    assert sorted(y.tolist()) == [*range(5)]
    expected = (50 * y / 255 - 0.5) / 0.5
    assert torch.allclose(x[:, 0].mean((1, 2)), expected, atol=0.03)
    with pytest.raises(ValueError, match="no photographs"):
        photographs(_empty(tmp_path), 16)


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_missing_weights_are_named() -> None:
    with pytest.raises(ValueError, match="install no-such-pytorch-model"):
        shipped_weights("no-such")


@pytest.mark.parametrize("name", PHOTOGRAPHED)
def test_networks_of_photographs_take_no_other_weights(name: str, tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(2, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"does not hold the weights of {name}"):
        lite_network(name, tmp_path / "other.pth")


# ---- contenders ---------------------------------------------------------------------------------


def removed(stage: Stage, model: nn.Module) -> float:
    example = stage.images.x[:1]
    return 1 - rivals.macs(model, example) / rivals.macs(stage.subject.model, example)


def test_macs_are_those_of_the_cost_model(stage: Stage) -> None:
    counted = rivals.macs(stage.subject.model, stage.images.x[:3])
    assert counted == CostModel(stage.graph).total(stage.graph.all_kept()).macs


def test_one_shot_ranks_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    rank = gp.rank

    def counting(*arguments: object, **options: object) -> gp.Ranking:
        asked.append(arguments[2])
        return rank(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(gp, "rank", counting)
    contender = one_shot("l2")
    models = [contender.prune(stage, ratio, "none").made for ratio in (0.3, 0.6)]
    assert asked == ["l2"]
    shares = [removed(stage, model) for model in models]
    assert shares[0] >= 0.3
    assert shares[1] >= 0.6


def test_games_look_ahead(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[object] = []
    weighed: list[object] = []
    rank, weigh = gp.rank, gp.weigh

    def remembering(*arguments: object, **options: object) -> gp.Ranking:
        ranked.append(options["for_ratio"])
        return rank(*arguments, **options)  # type: ignore[arg-type]

    def trying(*arguments: object, **options: object) -> gp.Weighed | None:
        weighed.append((options["ratio"], options["repair"]))
        return weigh(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(gp, "rank", remembering)
    monkeypatch.setattr(gp, "weigh", trying)
    ahead, masked = game(ahead=True), game(ahead=False)
    for ratio, repair in ((0.3, "none"), (0.3, "batchnorm"), (0.5, "none")):
        assert removed(stage, ahead.prune(stage, ratio, repair).made) >= ratio
    masked.prune(stage, 0.5, "least-squares")
    assert ranked == [0.3, 0.5]
    assert weighed == [(0.3, "batchnorm")]
    assert (ahead.name, masked.name) == ("shapley", "shapley, masked game")
    assert "none" not in masked.repairs


def test_interiors_leave_streams_alone(stage: Stage) -> None:
    made = one_shot("l2", streams=False).prune(stage, 0.4, "none").made
    weights = dict(made.named_parameters())
    for name in stage.subject.streams:
        original = stage.subject.model.get_submodule(name).weight
        assert weights[f"{name}.weight"].shape[0] == original.shape[0]


def test_one_step_is_one_shot(stage: Stage) -> None:
    once = one_shot("fisher").prune(stage, 0.4, "none").made
    stepped = iterated("fisher", 1).prune(stage, 0.4, "none").made
    assert torch.allclose(once(stage.images.x), stepped(stage.images.x), atol=1e-5)


def test_steps_reach_the_budget_in_equal_parts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    select_in_steps = gp.select_in_steps

    def remembering(*arguments: object, **options: object) -> object:
        found.append(select_in_steps(*arguments, **options))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(gp, "select_in_steps", remembering)
    contender = iterated("taylor", 3)
    models = [contender.prune(stage, 0.6, repair).made for repair in ("none", "batchnorm")]
    assert all(removed(stage, model) >= 0.6 for model in models)
    (stepped,) = found
    assert [step.asked for step in stepped.steps] == pytest.approx([0.2, 0.4, 0.6])
    assert stepped.plan.of == "macs"


def test_names_are_distinct(subject: Subject) -> None:
    names = [each.name for each in quality.chosen(["*"], subject)]
    assert len(set(names)) == len(names)
    assert "torch-pruning GroupTaylor, interiors" in names
    plain = quality.chosen(["*"], replace(subject, streams=()))
    assert not any("interiors" in each.name for each in plain)
    assert [each.name for each in quality.chosen(["l*"], subject)][:2] == ["leave-one-out", "l2"]


# ---- torch-pruning ------------------------------------------------------------------------------


@pytest.mark.parametrize("importance", rivals.IMPORTANCES)
@pytest.mark.filterwarnings("ignore")
def test_torch_pruning_reaches_the_budget(stage: Stage, importance: str) -> None:
    found = rivals.rival(importance, streams=False).prune(stage, 0.4, "none")
    assert removed(stage, found.made) >= 0.4
    # A whole channel of the widest interior is a small part of the network.
    assert removed(stage, found.made) < 0.6


@pytest.mark.filterwarnings("ignore")
def test_torch_pruning_says_what_it_cannot_do(stage: Stage) -> None:
    with pytest.raises(BudgetError, match="cannot remove 100%"):
        rivals.rival("LAMP", streams=False).prune(stage, 0.999, "none")


def test_its_gradients_are_copied_along(stage: Stage) -> None:
    shown = rivals._shown(stage, "GroupHessian")
    copied = shown.copied()
    known = [id(parameter) for parameter in copied.importance._accu_grad]
    assert set(known) <= {id(parameter) for parameter in copied.model.parameters()}
    assert known
    assert all(parameter.grad is not None for parameter in copied.model.parameters())


# ---- cells --------------------------------------------------------------------------------------


def cell(contender: str, right: list[int], **changes: object) -> Cell:
    found = Cell(
        "net",
        contender,
        0.5,
        "none",
        0,
        party="graphprune",
        removed=0.5,
        seconds=2.0,
        selection=sum(right) / len(right),
        test=sum(right) / len(right),
        hits=packed(torch.tensor(right, dtype=torch.bool)),
        images=len(right),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def test_hits_are_read_back() -> None:
    right = [1, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1]
    assert cell("a", right).right().tolist() == right


def test_runs_go_on_where_they_were_killed(tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    store = Store(file, {"images": 8})
    first, second = cell("a", [1, 0]), cell("b", [1, 1])
    store.add(first)
    store.add(second)
    whole = file.read_text()
    file.write_text(whole[:-20])
    store = Store(file, {"images": 8})
    assert first.key in store
    assert second.key not in store
    store.add(second)
    assert file.read_text() == whole
    assert read(file) == [first, second]
    with pytest.raises(ValueError, match="was measured with"):
        Store(file, {"images": 9})


@pytest.mark.filterwarnings("ignore")
def test_cells_are_measured_once(subject: Subject, tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.jsonl", {})
    plan = Plan([one_shot("l2")], [0.3], ["none", "batchnorm"], 2, 8)
    run(subject, plan, store)
    assert [c.contender for c in store.cells] == [UNPRUNED, *["l2"] * 4]
    assert [c.seed for c in store.cells[1:]] == [0, 0, 1, 1]
    assert [c.repair for c in store.cells[1:3]] == ["none", "batchnorm"]
    assert all(c.removed >= 0.3 for c in store.cells[1:])
    assert all(not c.error and c.images == 13 for c in store.cells)
    run(subject, replace(plan, contenders=[Contender("l2", _refuses)]), store)
    assert len(store.cells) == 5


def _refuses(stage: Stage, ratio: float, repair: str) -> Timed[object]:
    raise BudgetError("no more")


def test_failures_are_cells(stage: Stage) -> None:
    key = Key("tiny", "refuses", 0.5, "none", 0)
    found = measure(stage, Contender("refuses", _refuses), key)
    assert found.error == "BudgetError: no more"
    assert found.key == key
    assert "| tiny | refuses | BudgetError: no more |" in markdown(tables([found]))


# ---- verdicts -----------------------------------------------------------------------------------


def test_differences_are_paired() -> None:
    right = np.random.default_rng(0).random((2, 400)) < 0.5
    better = right | (np.random.default_rng(1).random((2, 400)) < 0.1)
    rows = [cell("a", r.astype(int).tolist(), seed=k) for k, r in enumerate(right)]
    rows += [cell("b", r.astype(int).tolist(), seed=k) for k, r in enumerate(better)]
    (column,) = columns(rows)
    a, b = entries(rows, column)
    found = difference(b, a)
    assert found.mean == pytest.approx(better.mean() - right.mean())
    # Far below what two unpaired samples of 400 would give.
    assert 0.005 < found.stderr < 0.02
    assert found.ties
    assert not difference(a, b).ties


def test_steps_are_chosen_without_the_test_images() -> None:
    rows = [
        cell("fisher, 2 steps", [1, 1, 1], selection=0.2),
        cell("fisher, 4 steps", [1, 0, 0], selection=0.6),
        cell("shapley", [1, 1, 0]),
        cell("shapley, 4 steps", [1, 1, 1], selection=0.9),
        cell("l2", [0, 1, 0]),
        cell("fails", [0, 0, 0], error="BudgetError"),
    ]
    (verdict,) = verdicts(rows)
    assert verdict.again is not None
    assert verdict.again.contender == "fisher, 4 steps"
    assert verdict.once.contender == "l2"
    assert control([verdict.shapley, verdict.once]) is None
    text = markdown(tables(rows))
    assert "| net | none | 50% | 66.7 | l2: 33.3 | +33.3 ± 33.3 | fisher, 4 steps: 33.3 |" in text
    assert "| fisher, 2 steps | 2 | 100.0* |" in text
    assert "| fails | - | - |" in text


# ---- the command --------------------------------------------------------------------------------


def test_tables_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cells.jsonl"
    Store(out, {}).add(cell("shapley", [1, 0]))
    assert quality.main(["--out", str(out), "--table"]) == 0
    assert "50.0*" in capsys.readouterr().out
    assert json.loads(out.read_text().splitlines()[0])["format"].endswith("/1")


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "cells.jsonl")
    assert quality.main(["--out", out, "--networks", PHOTOGRAPHED[0]]) == 2
    assert "--photographs" in capsys.readouterr().err
    assert quality.main(["--out", out, "--shared", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert quality.main(["--out", str(tmp_path / "none.jsonl"), "--table"]) == 2


def test_default_contenders_are_criteria_of_the_tool() -> None:
    from graphprune.criteria import available

    for contender in ours(streams=True):
        assert contender.name.split(",")[0] in available()
