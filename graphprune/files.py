"""Files written whole or not at all, and hashes of what was read."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from graphprune.errors import ArtifactError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}\.tmp(\.\w+)?")
"""Names of the files that :func:`replacing` writes first."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` when the block succeeds.

    Readers see the old file or the new one, never a part. On failure the temporary file goes and
    ``path`` stays as it was.

    Raises:
        ArtifactError: The folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=f".tmp{path.suffix}"
        )
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}: {error.strerror or error}",
            hint="choose a folder that you may write to with --out",
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; a result file gets the permissions any new file would get.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}: {error.strerror or error}",
            hint="free some space, or choose another folder with --out",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_stream(path: Path) -> Iterator[IO[bytes]]:
    """Yield a stream whose content replaces ``path`` when the block succeeds.

    Writing to it never fails: torch's writer ends the whole process when a write does. What went
    wrong is raised at the end of the block.

    Raises:
        ArtifactError: The folder cannot be written to, or the disk is full.
    """
    with replacing(path) as temporary, _Patient(temporary, "wb") as stream:
        yield stream
        if stream.error is not None:
            raise stream.error


class _Patient(io.FileIO):
    """Takes bytes also where it cannot write them, and remembers why."""

    error: OSError | None = None

    def write(self, content: Buffer) -> int:
        """Write everything, or nothing more once that has failed."""
        left = memoryview(content).cast("B")
        size = len(left)
        while left and self.error is None:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = error
        return size


def remove_leftovers(folder: Path) -> None:
    """Delete what killed runs were writing into a folder with :func:`replacing`.

    Only for a folder that nothing else is writing into.
    """
    for path in folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def unreachable(path: Path) -> str | None:
    """Return why a path cannot be looked at; None if it can, or if nothing is there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
        return None
    except OSError as error:
        return error.strerror or str(error)
    return None


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_disk(path: Path) -> None:
    """Wait until a file's content lies on the disk, where the machine may fail."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
