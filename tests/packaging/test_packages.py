"""What ships: every package folder, under the names that pyproject.toml promises."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {"graphprune": "graphprune", "graphprune_cli": "cli"}


def shipped_files() -> set[str]:
    """Names that the files of both trees have once they are installed."""
    return {
        f"{name}/{path.relative_to(ROOT / folder).as_posix()}"
        for name, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def packages_on_disk() -> set[str]:
    """Import names of all folders that hold Python files."""
    return {name.rpartition("/")[0].replace("/", ".") for name in shipped_files() if is_code(name)}


def is_code(name: str) -> bool:
    return name.endswith(".py")


def test_every_package_folder_is_listed() -> None:
    listed = SETTINGS["tool"]["setuptools"]["packages"]

    assert len(listed) == len(set(listed))
    assert set(listed) == packages_on_disk()


@pytest.mark.parametrize("package", sorted(packages_on_disk()))
def test_every_package_folder_has_an_init_file(package: str) -> None:
    top, _, rest = package.partition(".")

    assert (ROOT / FOLDERS[top] / rest.replace(".", "/") / "__init__.py").is_file()


def test_types_are_announced() -> None:
    assert (ROOT / "graphprune" / "py.typed").is_file()


@pytest.mark.parametrize(
    ("module", "importable"), [("graphprune", True), ("graphprune_cli", True), ("cli", False)]
)
def test_names_are_importable_from_anywhere(module: str, importable: bool, tmp_path: Path) -> None:
    probe = f"import importlib.util as u; print(u.find_spec({module!r}) is not None)"

    found = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert found.stdout.strip() == str(importable)


@pytest.mark.slow
def test_a_wheel_holds_every_file_and_no_top_level_cli(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in FOLDERS.values():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)

    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", str(target), str(source)], check=True)

    (wheel,) = target.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == shipped_files()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
