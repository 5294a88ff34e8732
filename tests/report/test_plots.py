"""Plots of a run: which files there are, and that they show groups and what was removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphprune.errors import OptionError
from graphprune.report import write_run_plots
from tests.report import runs

NETWORK = '<svg xmlns="http://www.w3.org/2000/svg"></svg>'


@pytest.mark.parametrize(("kind", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_files_are_of_the_kind_asked_for(tmp_path: Path, kind: str, magic: bytes) -> None:
    paths = write_run_plots(runs.plan(), runs.ranking(), NETWORK, tmp_path / "plots", kind)
    assert [path.name for path in paths] == [f"scores.{kind}", f"widths.{kind}", "network.svg"]
    assert sorted(paths) == sorted((tmp_path / "plots").iterdir())
    assert all(path.read_bytes().startswith(magic) for path in paths[:2])
    assert paths[2].read_text() == NETWORK


def test_equal_runs_make_equal_files(tmp_path: Path) -> None:
    first, second = (
        write_run_plots(runs.plan(), runs.ranking(), NETWORK, tmp_path / name, "svg")
        for name in ("a", "b")
    )
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_none_writes_nothing(tmp_path: Path) -> None:
    assert write_run_plots(runs.plan(), runs.ranking(), NETWORK, tmp_path / "a", "none") == ()
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'gif' is none of svg, png, none"):
        write_run_plots(runs.plan(), runs.ranking(), NETWORK, tmp_path, "gif")
