"""A comparison that is interrupted goes on, with what it has; another one is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from graphprune.artifacts import DataRecord, ModelRecord, RankingFile, ranking_of, read
from graphprune.comparison import (
    CompareFile,
    CompareFolder,
    CompareOptions,
    Comparison,
    Origin,
    compare,
    comparison_of,
)
from graphprune.errors import ArtifactError
from graphprune.progress import Progress, silent
from tests.comparison.subjects import OPTIONS, data, graph_of

MODEL = ModelRecord(
    spec="net.py:net", weights=None, input_shapes=((3, 6, 6),), sha256="m", folder="/",
    unpin_outputs=(),
)  # fmt: skip
DATA = DataRecord(
    spec="x.npz", mean=None, std=None, resize=None, limit=None, sha256="d", folder="/"
)
ORIGIN = Origin(argv=("graphprune",), versions={}, model=MODEL, data=DATA, eval_data=None)


def run(
    folder: Path,
    options: CompareOptions = OPTIONS,
    *,
    resume: bool = False,
    origin: Origin = ORIGIN,
    progress: Progress = silent,
) -> Comparison:
    store = CompareFolder(path=folder, origin=origin, resume=resume)
    return compare(graph_of(), data(), None, options, store=store, progress=progress)


def untimed(found: Comparison) -> Comparison:
    return replace(
        found,
        trials=tuple(replace(trial, seconds=0.0) for trial in found.trials),
        cells=tuple(replace(cell, seconds=0.0) for cell in found.cells),
    )


def test_the_file_holds_the_comparison(tmp_path: Path) -> None:
    found = run(tmp_path)
    file = read(tmp_path / "compare.json", CompareFile)
    assert comparison_of(file) == found
    assert file.summary == found.summary
    document = json.loads((tmp_path / "compare.json").read_text())
    assert document["format"] == "graphprune/compare/1"
    assert document["complete"] is True


def test_every_ranking_is_kept_as_a_file_that_prune_takes(tmp_path: Path) -> None:
    found = run(tmp_path)
    names = {path.name for path in (tmp_path / "rankings").iterdir()}
    assert names == {trial.ranking for trial in found.trials}
    graph = graph_of()
    ranking = ranking_of(read(tmp_path / "rankings" / "taylor-seed1.json", RankingFile), graph)
    assert (ranking.criterion, ranking.seed) == ("taylor", 1)


def test_killed_after_every_few_steps_it_ends_the_same(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    runs = 0
    found = None
    while found is None:
        runs += 1
        left = 7

        def kill(stage: str, done: int, total: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt

        try:
            found = run(tmp_path / "killed", resume=True, progress=kill)
        except KeyboardInterrupt:
            file = read(tmp_path / "killed" / "compare.json", CompareFile)
            assert not file.complete
    assert runs > 2
    assert untimed(found) == untimed(whole)


def test_more_is_asked_and_nothing_is_done_twice(tmp_path: Path) -> None:
    first = run(tmp_path, replace(OPTIONS, seeds=(0,), oracle=(), robustness=False))
    more = run(tmp_path, replace(OPTIONS, criteria=("taylor", "l2", "apoz")), resume=True)
    # Seconds differ from run to run: equal rows were not made again.
    assert set(first.cells) < set(more.cells)
    assert set(first.trials) < set(more.trials)
    assert [trial.criterion for trial in more.trials] == [
        name for name in ("taylor", "l2", "apoz", "random") for _ in (0, 1)
    ]
    again = run(tmp_path, resume=True, progress=silent)
    assert set(again.cells) == set(more.cells)


def test_a_ranking_that_was_changed_is_made_again(tmp_path: Path) -> None:
    options = replace(OPTIONS, oracle=(), robustness=False)
    first = run(tmp_path, options)
    path = tmp_path / "rankings" / "l2-seed0.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5'))
    second = run(tmp_path, replace(options, ratios=(0.2, 0.5, 0.6)), resume=True)
    assert set(first.cells) < set(second.cells)
    assert read(path, RankingFile).seed == 0


@pytest.mark.parametrize(
    ("options", "origin", "message"),
    [
        (replace(OPTIONS, of="params"), ORIGIN, "of was macs and is params"),
        (replace(OPTIONS, calibration=9), ORIGIN, "n_drawn was 20 and is 9"),
        (replace(OPTIONS, labels=False), ORIGIN, "labels was True and is False"),
        (
            OPTIONS,
            replace(ORIGIN, data=DATA.model_copy(update={"sha256": "e"})),
            "the data changed",
        ),
        (OPTIONS, replace(ORIGIN, eval_data=DATA), "the data that judge changed"),
        (OPTIONS, replace(ORIGIN, model=MODEL.model_copy(update={"sha256": "n"})), "the model"),
    ],
)
def test_another_comparison_is_refused(
    options: CompareOptions, origin: Origin, message: str, tmp_path: Path
) -> None:
    small = replace(OPTIONS, ratios=(0.2,), seeds=1, oracle=(), robustness=False)
    run(tmp_path, small)
    before = (tmp_path / "compare.json").read_bytes()
    with pytest.raises(ArtifactError, match=message):
        run(tmp_path, options, resume=True, origin=origin)
    assert (tmp_path / "compare.json").read_bytes() == before


def test_a_criterion_whose_file_has_changed_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "import numpy as np\ndef own(r):\n    return np.arange(float(r.graph.n_units))\n"
    )
    options = CompareOptions(
        criteria=(f"{own}:own",), ratios=(0.2,), seeds=1, repairs=("none",), floor=False
    )
    run(tmp_path, options)
    own.write_text(own.read_text().replace("arange(", "arange(1.0 + "))
    with pytest.raises(ArtifactError, match="have changed since"):
        run(tmp_path, options, resume=True)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text('{"format": "graphprune/compare/1"}')
    with pytest.raises(ArtifactError, match="is damaged"):
        run(tmp_path, resume=True)


def test_labels_become_names_of_files(tmp_path: Path) -> None:
    options = CompareOptions(
        criteria=("torch-pruning:Magnitude", "shapley@budget=2"), ratios=(0.2,), seeds=1,
        repairs=("none",), floor=False,
    )  # fmt: skip
    found = run(tmp_path, options)
    names = [trial.ranking for trial in found.trials]
    assert names[0].startswith("torch-pruning_Magnitude-")
    assert names[1] == "shapley@budget=2-seed0.json"
    assert all((tmp_path / "rankings" / name).is_file() for name in names)
