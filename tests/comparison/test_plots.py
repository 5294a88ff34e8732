"""Plots: what there is to draw is drawn, the same every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from graphprune.comparison import Comparison, compare, write_plots
from graphprune.errors import OptionError
from tests.comparison.subjects import OPTIONS, data, graph_of


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(graph_of(), data(), None, OPTIONS)


def names(paths: tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


def test_everything_is_drawn(found: Comparison, tmp_path: Path) -> None:
    paths = write_plots(found, tmp_path)
    assert names(paths) == [
        "accuracy.svg", "kl.svg", "robustness.svg", "robustness-groups.svg", "oracle.svg"
    ]  # fmt: skip
    assert all(path.read_text().lstrip().startswith("<?xml") for path in paths)
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_plots(found, tmp_path)] == first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names(paths))


def test_what_is_missing_is_not_drawn(found: Comparison, tmp_path: Path) -> None:
    bare = replace(found, robustness=(), oracle=(), sets=())
    paths = write_plots(bare, tmp_path, "png")
    assert names(paths) == ["accuracy.png", "kl.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert write_plots(found, tmp_path / "none", "none") == ()
    assert not (tmp_path / "none").exists()


def test_one_seed_and_no_labels(tmp_path: Path) -> None:
    options = replace(OPTIONS, seeds=(0,), ratios=(0.2,), repairs=("none",))
    found = compare(graph_of(), data(labels=False), None, options)
    assert names(write_plots(found, tmp_path))[:2] == ["agreement.svg", "kl.svg"]


def test_one_output(tmp_path: Path) -> None:
    found = compare(graph_of(classes=1), data(labels=False), None, OPTIONS)
    drawn = names(write_plots(found, tmp_path))
    assert drawn == ["kl.svg", "robustness.svg", "robustness-groups.svg", "oracle.svg"]


def test_cells_that_are_not_finite_are_left_out(found: Comparison, tmp_path: Path) -> None:
    cells = tuple(replace(c, kl=None if c.criterion == "l2" else c.kl) for c in found.cells)
    assert "kl.svg" in names(write_plots(replace(found, cells=cells), tmp_path))


def test_unknown_kinds_are_refused(found: Comparison, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="plots 'gif' is none of svg, png, none"):
        write_plots(found, tmp_path, "gif")
