"""Whoever dies at whatever moment, a folder holds the old set of files or the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphprune.errors import ArtifactError
from graphprune.files import to_disk
from graphprune.staging import commit, finish, is_unfinished, staging_of

NAMES = ("weights", "extra", "graph", "manifest")


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


OLD = {"weights": "old", "extra": "old", "manifest": "old"}
NEW = {"weights": "new", "graph": "new", "manifest": "new"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an old set of files, one of the user's, and a new set that is staged."""
    write(tmp_path, **OLD, mine="untouched")
    write(staging_of(tmp_path), **NEW)
    return tmp_path


def test_a_set_replaces_another(folder: Path) -> None:
    commit(folder, NAMES)
    assert files_of(folder) == {**NEW, "mine": "untouched"}
    assert [path for path in folder.iterdir() if path.is_dir()] == []


def test_what_was_not_committed_is_dropped(folder: Path) -> None:
    assert not is_unfinished(folder)
    finish(folder, NAMES)
    assert files_of(folder) == {**OLD, "mine": "untouched"}
    assert not staging_of(folder).exists()


def test_a_death_at_any_step_leaves_one_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for step in range(20):
        folder = tmp_path / str(step)
        write(folder, **OLD, mine="untouched")
        write(staging_of(folder), **NEW)
        with monkeypatch.context() as patch:
            done = _killed_at(step, patch, folder)
        finish(folder, NAMES)
        found = files_of(folder)
        assert found.pop("mine") == "untouched"
        assert found in (OLD, NEW)
        outcomes.append(found == NEW)
        assert not is_unfinished(folder)
        if done:
            break
    assert done
    assert outcomes == sorted(outcomes)
    assert 3 <= sum(outcomes) < len(outcomes)


def _killed_at(step: int, patch: pytest.MonkeyPatch, folder: Path) -> bool:
    """Commit and die at the step-th change of the file system; return whether it got through."""
    left = [step]

    def dying(name: str) -> None:
        real = getattr(Path, name)

        def change(self: Path, *arguments: object, **options: object) -> object:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(self, *arguments, **options)

        patch.setattr(Path, name, change)

    for name in ("touch", "rename", "replace", "unlink"):
        dying(name)
    try:
        commit(folder, NAMES)
    except Killed:
        return False
    return True


@pytest.mark.parametrize("name", [".staging", ".commit"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, **OLD)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match="is no folder that graphprune made"):
        finish(folder, NAMES)
    assert files_of(elsewhere) == OLD


def test_a_file_that_cannot_be_moved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ArtifactError, match="Permission denied"):
        commit(folder, NAMES)
    assert files_of(folder) == {**OLD, "mine": "untouched"}


def test_everything_is_on_the_disk_before_it_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []

    def noting(path: Path) -> None:
        assert not is_unfinished(folder)
        kept.append(path.name)

    monkeypatch.setattr("graphprune.staging.to_disk", noting)
    commit(folder, NAMES)
    assert kept == list(NAMES)


def test_files_go_to_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"12")
    to_disk(file)
    assert file.read_bytes() == b"12"
