"""One version, wherever it is asked for."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import graphprune

ROOT = Path(__file__).parents[2]


def declared_version() -> str:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(settings["project"]["version"])


def test_the_installed_version_is_the_declared_one() -> None:
    assert metadata.version("graphprune") == declared_version()


def test_the_package_knows_its_version() -> None:
    assert graphprune.__version__ == declared_version()


def test_the_changelog_has_a_section_for_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert f"## [{declared_version()}]" in changelog
