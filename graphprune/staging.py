"""The files of a folder, replaced all at once or not at all.

A new set of files is made in a folder of its own beside the old set, ``.staging``. Renaming that to
``.commit`` is the moment from which the new set counts; its files are then moved over the old ones.
Who is killed before leaves the old set; who is killed after leaves moves that :func:`finish` makes
good. The files are on the disk by then, so that a machine that fails leaves no empty ones. A run
holds its folder (:mod:`graphprune.holding`), so there is one such set at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from graphprune.errors import ArtifactError
from graphprune.files import to_disk, unreachable

_STAGING = ".staging"
_COMMIT = ".commit"


def staging_of(folder: Path) -> Path:
    """Return where the new files of a folder are made."""
    return folder / _STAGING


def commit(folder: Path, names: Sequence[str]) -> None:
    """Replace a folder's set of files by the one in its staging folder.

    Args:
        folder: The folder.
        names: Every name that the set may have, in the order in which files are moved; files of
            these names that the new set does not have are deleted.

    Raises:
        ArtifactError: A file cannot be moved.
    """
    with _explained(folder):
        for name in names:
            # An empty file stands for none, so that `finish` knows what to delete.
            (folder / _STAGING / name).touch()
            to_disk(folder / _STAGING / name)
        (folder / _STAGING).rename(folder / _COMMIT)
    finish(folder, names)


def is_unfinished(folder: Path) -> bool:
    """Whether a set of files was being moved into a folder when the run was killed."""
    made = folder / _COMMIT
    return unreachable(made) is None and made.exists()


def finish(folder: Path, names: Sequence[str]) -> None:
    """Make good what a run that was killed has left: finish its moves, or drop what it made.

    Raises:
        ArtifactError: A file cannot be moved or deleted.
    """
    made = folder / _COMMIT
    with _explained(folder):
        _require_own(made, folder / _STAGING)
        for name in names if made.exists() else ():
            _move(made / name, folder / name)
        for left in (made, folder / _STAGING):
            if left.exists():
                shutil.rmtree(left)


def _move(new: Path, old: Path) -> None:
    if not new.exists():  # moved before the run was killed
        return
    if new.stat().st_size:
        new.replace(old)
    else:
        old.unlink(missing_ok=True)
        new.unlink()


def _require_own(*folders: Path) -> None:
    """Refuse links, through which files of other folders would be moved or deleted."""
    for folder in folders:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ArtifactError(
                f"{folder} is no folder that graphprune made", hint="look at it and delete it"
            )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"cannot write {folder}: {error.strerror or error}",
            hint="choose a folder that you may write to with --out",
        ) from error
