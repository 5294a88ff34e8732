"""One run at a time in a folder.

A lock of the operating system on the file ``.lock`` keeps other runs out. It ends with the process,
however that ends, so no lock is ever stale; the file stays, and says who holds it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from graphprune.errors import ArtifactError
from graphprune.files import remove_leftovers

_LOCK = ".lock"
_LONGEST = 200
"""Characters of a lock file that are repeated in an error."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made if need be.

    What killed runs have left half-written is deleted. A folder that was made and into which
    nothing was written is gone afterwards.

    Raises:
        ArtifactError: Another run holds it, or it cannot be written to.
    """
    made = not folder.exists()
    path = folder / _LOCK
    lock = _acquired(folder, path)
    try:
        with suppress(OSError):  # it is only for people to read
            path.write_text(_holder(), encoding="utf-8")
        remove_leftovers(folder)
        yield
    finally:
        if made and [entry.name for entry in folder.iterdir()] == [_LOCK]:
            path.unlink()
            folder.rmdir()
        lock.release()


def _acquired(folder: Path, path: Path) -> FileLock:
    # It blocks on a path that is missing, and the folder is made like any other result.
    lock = FileLock(path, mode=0o666)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise ArtifactError(
            f"another run is at work in {folder}{_said(path)}",
            hint="wait until it has ended, or choose another folder with --out",
        ) from None
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}: {error.strerror or error}",
            hint="choose a folder that you may write to with --out",
        ) from error
    return lock


def _holder() -> str:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return f"process {os.getpid()} on {platform.node()} since {since}\n"


def _said(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8")[:_LONGEST].strip()
        return f" ({text})" if text.isprintable() and text else ""
    return ""
