"""The files of a run: what is written is read, what is damaged is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphprune import artifacts
from graphprune.artifacts import (
    AccuracyRecord,
    CheckRecord,
    DataRecord,
    ManifestFile,
    ModelRecord,
    PlanFile,
    RankingFile,
    RepairRecord,
    RunFolder,
    ValidationRecord,
    plan_file,
    plan_of,
    ranking_file,
    ranking_of,
    read,
    write,
)
from graphprune.errors import ArtifactError, OptionError
from graphprune.graph import DependencyGraph
from graphprune.ranking import Ranking, RefitScores, split_by_group
from graphprune.selection import PruningPlan, select
from tests.traced import traced

MODEL = ModelRecord(
    spec="nets.py:make",
    weights=None,
    input_shapes=((3, 8, 8),),
    sha256="ab" * 32,
    folder="runs",
    unpin_outputs=(),
)
DATA = DataRecord(
    spec="images.npz",
    mean=(0.5, 0.5, 0.5),
    std=None,
    resize=(32, 40),
    limit=256,
    sha256="cd" * 32,
    folder="runs",
)


@pytest.fixture(scope="module")
def graph() -> DependencyGraph:
    return traced("Residual")


@pytest.fixture(scope="module")
def ranking(graph: DependencyGraph) -> Ranking:
    rng = np.random.default_rng(0)
    scores, stderr = rng.normal(size=(2, graph.n_units)) * 1e-3
    refit = RefitScores(*rng.uniform(size=(2, graph.n_units)))
    return Ranking(
        graph=graph,
        groups=split_by_group(graph, scores, np.abs(stderr), refit=refit),
        criterion="shapley",
        game="network",
        estimator="gradients",
        value="kl",
        aggregate="magnitude",
        evaluations=17,
        n_images=256,
        seed=3,
        protected=("a.0.weight",),
    )


@pytest.fixture(scope="module")
def plan(ranking: Ranking) -> PruningPlan:
    return select(ranking, ratio=0.3, of="macs", scope="global")


@pytest.fixture(scope="module")
def manifest() -> ManifestFile:
    return ManifestFile(
        argv=("graphprune", "prune"),
        versions={"torch": "2"},
        seed=3,
        model=MODEL,
        data=DATA,
        hashes={"plan.json": "00"},
        timings={"rank": 1.5},
        repair=RepairRecord(method="batchnorm", changed=("bn.running_mean",), notes=()),
        accuracy=AccuracyRecord(n_images=256, before=0.75, after=0.5),
        latency=None,
        validation=ValidationRecord(
            ok=True,
            checks=(
                CheckRecord(
                    name="onnx", ok=True, detail="", max_abs=1e-7, max_rel=None, tolerance=1e-4
                ),
            ),
        ),
        notes=("a note",),
    )


@pytest.fixture
def records(
    ranking: Ranking, plan: PruningPlan, manifest: ManifestFile
) -> dict[str, RankingFile | PlanFile | ManifestFile]:
    return {
        "ranking.json": ranking_file(ranking, MODEL, DATA),
        "plan.json": plan_file(plan, MODEL.sha256),
        "manifest.json": manifest,
    }


FILES = ("ranking.json", "plan.json", "manifest.json")


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def path(tmp_path: Path, name: str, records: dict[str, Any]) -> Path:
    write(tmp_path / name, records[name])
    return tmp_path / name


# ---- round trips --------------------------------------------------------------------------------


def test_what_is_written_is_read(name: str, path: Path, records: dict[str, Any]) -> None:
    assert read(path, type(records[name])) == records[name]
    kind = name.removesuffix(".json")
    assert json.loads(path.read_text())["format"] == f"graphprune/{kind}/1"


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_ranking_comes_back_to_the_last_bit(
    graph: DependencyGraph, ranking: Ranking, tmp_path: Path, share: float
) -> None:
    path = tmp_path / "ranking.json"
    ranking = ranking.weighed(share)
    write(path, ranking_file(ranking, MODEL, None))
    file = read(path, RankingFile)
    found = ranking_of(file, graph)
    assert (file.data, file.model_hash) == (None, MODEL.sha256)
    np.testing.assert_array_equal(found.scores, ranking.scores)
    for one, other in zip(found.groups, ranking.groups, strict=True):
        np.testing.assert_array_equal(one.stderr, other.stderr)
        assert one.refit is not None
        assert other.refit is not None
        np.testing.assert_array_equal(one.refit.average, other.refit.average)
        np.testing.assert_array_equal(one.refit.greedy, other.refit.greedy)
        assert (one.masked is None) == (other.masked is None) == (share == 0)
        if one.masked is not None and other.masked is not None:
            np.testing.assert_array_equal(one.masked.scores, other.masked.scores)
            np.testing.assert_array_equal(one.masked.stderr, other.masked.stderr)
    for field in ("criterion", "game", "estimator", "value", "aggregate", "protected", "seed"):
        assert getattr(found, field) == getattr(ranking, field)
    assert (found.evaluations, found.n_images) == (17, 256)


def test_a_plan_comes_back(graph: DependencyGraph, plan: PruningPlan, tmp_path: Path) -> None:
    write(tmp_path / "plan.json", plan_file(plan, "hash"))
    assert plan_of(read(tmp_path / "plan.json", PlanFile), graph) == plan


def test_the_contracts_keys(records: dict[str, Any]) -> None:
    ranking = records["ranking.json"].model_dump(mode="json")
    assert {"criterion", "game", "evaluations", "seed", "model_hash", "groups"} <= set(ranking)
    assert set(ranking["groups"][0]) == {
        "name",
        "units",
        "scores",
        "stderr",
        "effort",
        "refit",
        "refit_greedy",
        "masked",
    }
    plan = records["plan.json"].model_dump(mode="json")
    assert {"removed", "groups", "cost", "asked", "reached"} <= set(plan)
    assert "removed_units" in plan["groups"][0]
    assert set(plan["cost"]) == {"before", "after"}
    assert set(plan["cost"]["after"]) == {"units", "params", "macs"}
    removed = next(iter(plan["removed"].values()))
    assert all(dim.isdecimal() and isinstance(indices, list) for dim, indices in removed.items())
    manifest = records["manifest.json"].model_dump(mode="json")
    assert {"argv", "versions", "seed", "hashes", "timings", "accuracy", "validation"} <= set(
        manifest
    )


# ---- damage -------------------------------------------------------------------------------------


def refused(path: Path, kind: type[Any], pattern: str) -> None:
    with pytest.raises(ArtifactError, match=pattern) as error:
        read(path, kind)
    assert error.value.exit_code == 2
    assert error.value.hint
    assert "\n" not in error.value.message
    assert len(error.value.message) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "is damaged: Expecting value"),
        (b"{", "is damaged: Expecting property name"),
        (b"\xff\xfe\x00", "is damaged: it is no text"),
        (b"[]", "has format None, this version reads 'graphprune/"),
        (b'"text"', "has format None"),
        (b"{}", "has format None"),
        (b'{"format": "graphprune/ranking/2"}', "has format 'graphprune/ranking/2', this version"),
        (b'{"format": 1}', "has format 1"),
        (b'{"format": NaN}', "is damaged: NaN is no number"),
        (b"[" * 200_000, "is damaged"),
        (b"1" * 10_000, "is damaged"),
    ],
)
def test_content_that_is_no_record(
    content: bytes, pattern: str, path: Path, name: str, records: dict[str, Any]
) -> None:
    path.write_bytes(content)
    refused(path, type(records[name]), pattern)


def test_a_truncated_file(path: Path, name: str, records: dict[str, Any]) -> None:
    text = path.read_text()
    for length in range(1, len(text) - 2, max(len(text) // 20, 1)):
        path.write_text(text[:length])
        refused(path, type(records[name]), "is damaged")


def test_a_file_of_another_kind(path: Path, name: str, records: dict[str, Any]) -> None:
    for other in FILES:
        if other != name:
            refused(path, type(records[other]), "has format 'graphprune/")


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_missing_key(path: Path, name: str, records: dict[str, Any]) -> None:
    whole = json.loads(path.read_text())
    fields = type(records[name]).model_fields
    # Keys that came after the first version may be missing.
    for key in (key for key, field in fields.items() if field.is_required()):
        path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        refused(path, type(records[name]), f"is damaged: {key}: Field required")


def test_an_extra_key(path: Path, name: str, records: dict[str, Any]) -> None:
    changed(path, lambda data: data.update(surprise=1))
    refused(path, type(records[name]), "is damaged: surprise: Extra inputs are not permitted")


def test_a_wrong_type(path: Path, name: str, records: dict[str, Any]) -> None:
    changed(path, lambda data: data.update(seed="three"))
    refused(path, type(records[name]), "is damaged: seed: Input should be a valid integer")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(number: str, tmp_path: Path, records: dict[str, Any]) -> None:
    path = tmp_path / "ranking.json"
    write(path, records["ranking.json"])
    data = json.loads(path.read_text())
    data["groups"][0]["scores"][1] = 0.125
    path.write_text(json.dumps(data).replace("0.125", number))
    refused(path, RankingFile, "is damaged: ")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no ranking\.json in ") as error:
        read(tmp_path / "ranking.json", RankingFile)
    assert "`graphprune rank MODEL`" in str(error.value)
    with pytest.raises(ArtifactError, match=r"there is no plan\.json in ") as error:
        read(tmp_path / "absent" / "plan.json", PlanFile)
    assert "`graphprune prune`" in str(error.value)


def test_a_folder_in_a_files_place(tmp_path: Path) -> None:
    (tmp_path / "ranking.json").mkdir()
    refused(tmp_path / "ranking.json", RankingFile, "cannot read .*: Is a directory")


def test_a_file_in_a_folders_place(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    refused(tmp_path / "out" / "ranking.json", RankingFile, "cannot read .*: Not a directory")


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MAX_BYTES", 1 << 20)
    (tmp_path / "ranking.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(ArtifactError, match="is larger than 1 MiB"):
        read(tmp_path / "ranking.json", RankingFile)


def test_a_ranking_from_before_there_were_greedy_refits(
    graph: DependencyGraph, ranking: Ranking, tmp_path: Path, records: dict[str, Any]
) -> None:
    path = tmp_path / "ranking.json"
    write(path, records["ranking.json"])
    changed(path, lambda data: [group.pop("refit_greedy") for group in data["groups"]])
    found = ranking_of(read(path, RankingFile), graph)
    assert found.knows_refits
    assert not found.knows_greedy_refits
    np.testing.assert_array_equal(found.weighed(0.5).scores, ranking.weighed(0.5).scores)
    with pytest.raises(OptionError, match="knows no values in the refit game"):
        found.weighed(0.5, greedy=True)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("scores", "7 scores, 8 standard errors, 8 values of refits, 8 greedy ones"),
        ("refit", "8 scores, 8 standard errors, 7 values of refits, 8 greedy ones"),
        ("refit_greedy", "8 scores, 8 standard errors, 8 values of refits, 7 greedy ones"),
    ],
)
def test_scores_that_do_not_match_units(
    key: str, said: str, graph: DependencyGraph, tmp_path: Path, records: dict[str, Any]
) -> None:
    path = tmp_path / "ranking.json"
    write(path, records["ranking.json"])
    changed(path, lambda data: data["groups"][0][key].pop())
    file = read(path, RankingFile)
    with pytest.raises(ArtifactError, match=rf"stem\.0\.weight has 8 units, {said}"):
        ranking_of(file, graph)


def test_a_ranking_of_another_network(records: dict[str, Any]) -> None:
    other = traced("Dense")
    with pytest.raises(OptionError, match="groups are not those of the network"):
        ranking_of(records["ranking.json"], other)


@pytest.mark.parametrize(
    ("units", "pattern"),
    [([8], "has 8 units and removes"), ([-1], "has 8"), ([1, 1], "has 8"), ([2, 1], "has 8")],
)
def test_a_plan_with_units_out_of_range(
    units: list[int], pattern: str, tmp_path: Path, records: dict[str, Any]
) -> None:
    path = tmp_path / "plan.json"
    write(path, records["plan.json"])
    changed(path, lambda data: data["groups"][0].update(removed_units=units))
    with pytest.raises(ArtifactError, match=rf"plan\.json is damaged: .*{pattern}"):
        plan_of(read(path, PlanFile))


def test_a_plan_whose_entries_are_not_those_of_its_units(
    graph: DependencyGraph, records: dict[str, Any]
) -> None:
    file = records["plan.json"]
    removed = copy.deepcopy(file.removed)
    name, by_dim = next(iter(removed.items()))
    removed[name] = {dim: indices[1:] for dim, indices in by_dim.items()}
    with pytest.raises(ArtifactError, match="removed entries are not those of its removed units"):
        plan_of(file.model_copy(update={"removed": removed}), graph)
    removed[name] = {"x": (1,)}
    with pytest.raises(ArtifactError, match="'x' is no dim of"):
        plan_of(file.model_copy(update={"removed": removed}))


# ---- records ------------------------------------------------------------------------------------


def test_an_error_that_is_not_finite_is_recorded_as_none() -> None:
    check = CheckRecord(
        name="x", ok=False, detail="NaN", max_abs=float("nan"), max_rel=float("inf"), tolerance=1e-4
    )
    assert (check.max_abs, check.max_rel) == (None, None)


def test_sources_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is looked up here first, then where the command ran."""
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "nets.py").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    record = MODEL.model_copy(update={"folder": str(tmp_path / "there")})
    assert record.source().spec == f"{tmp_path / 'there' / 'nets.py'}:make"
    (tmp_path / "here" / "nets.py").write_text("")
    assert record.source().spec == "nets.py:make"
    named = MODEL.model_copy(update={"spec": "torchvision:resnet18", "weights": "w.pt"})
    assert (named.source().spec, named.source().weights) == ("torchvision:resnet18", "w.pt")
    source = DATA.source()
    assert (source.spec, source.resize, source.limit) == ("images.npz", (32, 40), 256)


def test_a_run_folder_and_its_hashes(tmp_path: Path, records: dict[str, Any]) -> None:
    folder = RunFolder(tmp_path)
    assert folder.hashes() == {}
    write(folder.plan, records["plan.json"])
    assert set(folder.hashes()) == {"plan.json"}
    assert len(folder.hashes()["plan.json"]) == 64
    assert folder.state == tmp_path / "rank-state.npz"


# ---- writing ------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    path: Path, name: str, records: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(self: Path, *_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(ArtifactError, match="No space left on device"):
            write(path, records[name])
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_writing_where_a_file_stands_in_the_way(tmp_path: Path, records: dict[str, Any]) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ArtifactError, match="cannot write") as error:
        write(tmp_path / "out" / "plan.json", records["plan.json"])
    assert "--out" in str(error.value)


def test_no_temporary_file_is_left(path: Path, name: str) -> None:
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_a_sealed_manifest_shows_every_change(manifest: ManifestFile, tmp_path: Path) -> None:
    sealed = manifest.sealed()
    path = tmp_path / "manifest.json"
    write(path, sealed)
    assert read(path, ManifestFile).is_whole
    changed = sealed.model_copy(update={"notes": ("another note",)})
    write(path, changed)
    assert not read(path, ManifestFile).is_whole
