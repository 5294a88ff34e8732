"""The page is well-formed, shows the figures, escapes names and loads nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import graphprune as gp
from graphprune.artifacts import (
    AccuracyRecord,
    CandidateRecord,
    ChoiceRecord,
    DivergenceRecord,
    ExchangeRecord,
    FaithfulnessRecord,
    FidelityRecord,
    IntervalRecord,
    LatencyRecord,
    RunFolder,
    StepRecord,
    WeighingRecord,
    WeightRecord,
)
from graphprune.comparison import CompareFolder, Origin
from graphprune.drawing import draw
from graphprune.errors import ArtifactError
from graphprune.report import Pictures, render, write_report
from tests.helpers import random_kept
from tests.networks import traced
from tests.report import runs

_VOID = {"meta"}
_HOSTILE = '<script>alert(1)</script>" onload="x'


class _Page(HTMLParser):
    """Collects tags, attributes and text, and fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> _Page:
    return _Page(html)


def test_shows_where_a_file_parts_from_its_network() -> None:
    found = DivergenceRecord(
        case="batch 2, seed 0", node="node_conv2d_3", op="Conv", value="conv2d_3", error=0.25,
        module="layer1.0.conv2", source="", weights=("layer1.0.conv2.weight",),
        groups=(_HOSTILE,), files=("divergence/submodel.onnx",),
    )  # fmt: skip
    plain = runs.manifest()
    validation = plain.validation.model_copy(update={"ok": False, "divergence": found})
    failed = plain.model_copy(update={"validation": validation})
    text = read(render(failed, runs.plan(), runs.ranking())).text
    for shown in (
        "First difference",
        "node_conv2d_3 (Conv)",
        "2.5e-01 (batch 2, seed 0)",
        "layer1.0.conv2.weight",
        _HOSTILE,
        "divergence/submodel.onnx",
    ):
        assert shown in text
    assert "First difference" not in read(render(plain, runs.plan(), runs.ranking())).text


def test_shows_how_far_scores_look_ahead() -> None:
    tried = (
        WeightRecord(refit=0.5, kl=0.01234),
        WeightRecord(refit=0.25, kl=0.05, greedy=True),
        WeightRecord(refit=0, kl=None),
    )
    weighing = WeighingRecord(n_images=1256, tried=tried)
    manifest = runs.manifest().model_copy(update={"weighing": weighing})
    text = read(render(manifest, runs.plan(), runs.ranking())).text
    assert "weight of the refit game, divergence after the repair on 1,256 images" in text
    assert "0.5 (0.0123 nats), 0.25 greedy (0.05 nats), 0 (infinite)" in text


def test_says_what_is_left_on_images_that_did_not_repair() -> None:
    text = read(render(runs.manifest(), runs.plan(), runs.ranking())).text
    assert "repaired without 16 of the images, divergence on these" in text
    assert "0.100 nats, as cut 0.500" in text


def test_shows_what_groups_traded() -> None:
    traded = ExchangeRecord(value="kl", before=-3.776, after=None, evaluations=54, n_images=256)
    manifest = runs.manifest().model_copy(update={"exchange": traded})
    text = read(render(manifest, runs.plan(), runs.ranking())).text
    assert "exchange, kl on 256 images" in text
    assert "-3.78 to -, higher is better (54 coalitions)" in text


def test_shows_the_figures() -> None:
    accuracy = AccuracyRecord(n_images=256, before=0.806, after=0.742)
    manifest = runs.manifest(accuracy=accuracy, data=runs.data_record())
    text = read(render(manifest, runs.plan(), runs.ranking(protected=("wide.weight",)))).text
    for shown in (
        "torchvision:resnet18",
        "Validation passed: 2 checks",
        "Asked to remove 47.5 % of the multiply-accumulates, one ranking of all units",
        "reached 50.0 %",
        "1.81 G → 907 M",
        "11.7 M → 7.46 M",
        "13 → 9",
        "−50.0 %",
        "80.6 % → 74.2 %",
        "−6.4 points",
        "256 calibration images",
        "the network only takes batches of 2",
        "4 → 3",
        "9 → 6",
        "33.3 %",
        "left alone",
        "pruned = onnxruntime",
        "3.2e-07",
        "1e-04",
        "12.50 s",
        "graphprune prune --ratio 0.3 --data 'my data.npz'",
        "calibration.npz",
        "32, 48",
        "gradients",
        "2.14.0",
        "d" * 64,
    ):
        assert shown in text


def test_shows_how_faithful_the_network_is() -> None:
    fidelity = FaithfulnessRecord(
        n_images=256,
        cut=FidelityRecord(kl=None, kl_stderr=None, agreement=0.25),
        repaired=FidelityRecord(kl=0.0815, kl_stderr=0.01, agreement=0.934),
    )
    html = render(runs.manifest(fidelity=fidelity), runs.plan(), runs.ranking())
    text = read(html).text
    assert "not finite → 0.082" in text
    assert "93.4 % same class" in text
    assert "25.0 % → 93.4 %" in html


def test_shows_the_measured_latency() -> None:
    latency = LatencyRecord(
        before=IntervalRecord(median=0.08, low=0.079, high=0.081, n=20),
        after=IntervalRecord(median=0.04, low=0.039, high=0.041, n=20),
        speedup=IntervalRecord(median=2.0, low=1.9, high=2.1, n=20),
        threads=1,
        batch=4,
        provider="cpu",
    )
    html = render(runs.manifest(latency=latency), runs.plan(), runs.ranking())
    text = read(html).text
    assert "80 ms → 40 ms" in text
    assert "−50.0 %" in text
    assert "2.00 times as fast (1.90 to 2.10); threads: 1, batch: 4, cpu" in html


def test_shows_how_the_plan_was_found() -> None:
    records = [
        FidelityRecord(kl=0.11, kl_stderr=0.01, agreement=0.9),
        FidelityRecord(kl=None, kl_stderr=None, agreement=0.1),
    ]
    candidates = tuple(
        CandidateRecord(criterion=name, reached=0.5, fidelity=record)
        for name, record in zip(("taylor", "l2"), records, strict=True)
    )
    manifest = runs.manifest(
        steps=(
            StepRecord(asked=0.2, reached=0.21, units=3),
            StepRecord(asked=0.4, reached=0.4, units=4),
        ),
        candidates=ChoiceRecord(n_images=64, candidates=candidates),
    )
    text = read(render(manifest, runs.plan(), runs.ranking())).text
    assert "taylor 0.110, l2 not finite" in text
    assert "64 images held out" in text
    assert "21.0 %, 40.0 %" in text


def test_failed_validation_is_what_one_sees_first() -> None:
    checks = (runs.check("masked = pruned"), runs.check("pruned = onnxruntime", ok=False))
    html = render(runs.manifest(checks=checks), runs.plan(), runs.ranking())
    text = read(html).text
    assert "Validation failed: pruned = onnxruntime" in text
    assert "FAILED" in text
    assert text.index("Validation failed") < text.index("Groups")


def test_without_data_accuracy_or_command() -> None:
    text = read(render(runs.manifest(argv=()), runs.plan(), runs.ranking())).text
    assert "accuracy" not in text.lower()
    assert "not started from the command line" in text


def test_hostile_names_are_text() -> None:
    names = (f"{_HOSTILE}.weight", "wide.weight")
    manifest = runs.manifest(
        spec=_HOSTILE,
        argv=("graphprune", "prune", _HOSTILE),
        data=runs.data_record(_HOSTILE),
        checks=(runs.check(_HOSTILE, detail=_HOSTILE),),
        notes=(_HOSTILE,),
    )
    html = render(manifest, runs.plan(names), runs.ranking(names))
    page = read(html)
    assert "<script" not in html
    assert "script" not in page.tags
    assert not any(name.startswith("on") for name in page.attributes)
    assert _HOSTILE in page.text


def test_loads_nothing() -> None:
    html = render(runs.manifest(), runs.plan(), runs.ranking())
    page = read(html)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not page.attributes & {"src", "href", "srcset", "action", "xlink:href", "style:src"}
    assert not re.search(r"https?:|//[a-z]|url\(|@import", html)
    assert "default-src 'none'" in html


def a_picture() -> str:
    graph = traced("Residual")
    return draw(graph, random_kept(graph, 0.4, 0))


def test_the_network_is_drawn_with_both_widths() -> None:
    html = render(runs.manifest(), runs.plan(), runs.ranking(), Pictures(network=a_picture()))
    page = read(html)
    assert "svg" in page.tags
    assert re.search(r"group 1 · 8 → \d channels", page.text)
    assert not page.attributes & {"src", "href", "srcset", "action"}
    assert set(re.findall(r"url\((.)", html)) == {"#"}, "only parts of the page itself"


def test_without_pictures_there_is_no_place_for_them() -> None:
    text = read(render(runs.manifest(), runs.plan(), runs.ranking())).text
    assert "Network\n" not in text
    assert "Accuracy against ratio" not in text


def test_latency_is_a_table() -> None:
    def interval(median: float) -> IntervalRecord:
        return IntervalRecord(low=0.9 * median, median=median, high=1.1 * median, n=30)

    latency = LatencyRecord(
        before=interval(0.01),
        after=interval(0.004),
        speedup=interval(2.5),
        threads=1,
        batch=1,
        provider="cpu",
    )
    text = read(render(runs.manifest(latency=latency), runs.plan(), runs.ranking())).text
    for shown in ("original.onnx", "10 ms", "3.6 to 4.4 ms", "2.50 times as fast (2.25 to 2.75)"):
        assert shown in text


class TestComparison:
    """``compare.json`` in the folder of the run."""

    def shown(self, folder: Path, model_hash: str) -> str:
        manifest = runs.manifest()
        model = manifest.model.model_copy(update={"sha256": model_hash})
        run = RunFolder(folder)
        write_report(run, manifest.model_copy(update={"model": model}), runs.plan(), runs.ranking())
        return run.report.read_text(encoding="utf-8")

    @pytest.fixture
    def comparison(self, tmp_path: Path) -> str:
        """Write a comparison, and return the hash of its network."""
        graph = traced("Residual")
        x = torch.randn(48, 3, 8, 8, dtype=torch.float64)
        found = gp.compare(graph, (x,), ["l1"], [0.2, 0.4], 1, repairs=["none"])
        origin = Origin(
            argv=(), versions={}, model=runs.model_record(), data=runs.data_record(), eval_data=None
        )
        CompareFolder(path=tmp_path, origin=origin).save(found)
        return origin.model.sha256

    def test_is_drawn(self, tmp_path: Path, comparison: str) -> None:
        html = self.shown(tmp_path, comparison)
        page = read(html)
        assert "Accuracy against ratio" in page.text
        assert "judged on 16 images" in page.text
        assert "purl.org" not in html
        links = re.findall(r'xlink:href="(.)', html)
        assert links
        assert set(links) == {"#"}

    def test_of_another_network_is_not(self, tmp_path: Path, comparison: str) -> None:
        page = read(self.shown(tmp_path, "f" * 64))
        assert "compare.json is of another network" in page.text
        assert "judged on" not in page.text

    def test_damaged_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "compare.json").write_text("{")
        assert "No comparison is shown: " in read(self.shown(tmp_path, "f" * 64)).text


def test_files_of_two_runs_are_refused() -> None:
    with pytest.raises(ArtifactError, match="different groups"):
        render(runs.manifest(), runs.plan(), runs.ranking(("stem.weight", "other.weight")))


def test_is_written_into_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    write_report(folder, runs.manifest(), runs.plan(), runs.ranking())
    assert [path.name for path in folder.path.iterdir()] == ["report.html"]
    written = folder.report.read_text(encoding="utf-8")
    assert written == render(runs.manifest(), runs.plan(), runs.ranking())


def test_what_each_refit_was_worth_is_shown() -> None:
    text = read(render(runs.manifest(), runs.plan(), runs.ranking())).text
    for shown in ("fc.weight", "23.4 %", "1.23 %", "left as it was"):
        assert shown in text
