"""What kind of file lies at a path, judged by its bytes and not by its name."""

from __future__ import annotations

import difflib
import zipfile
from enum import Enum
from pathlib import Path

from graphprune.errors import ModelError
from graphprune.files import unreachable

_PERMISSIONS = "check its permissions, and those of its folder"
_KNOWN = (".pt", ".pth", ".pt2", ".safetensors", ".py")


class Container(Enum):
    """The file formats that this layer tells apart."""

    TORCH_SAVE = "torch.save"
    OLD_TORCH_SAVE = "torch.save before torch 1.6"
    TORCHSCRIPT = "TorchScript"
    EXPORTED = "torch.export.save"
    OTHER_ZIP = "a zip of something else"
    BROKEN = "damaged"


def existing_file(spec: str, *, what: str) -> Path:
    """Return the path of a file that is there and not empty.

    Args:
        spec: The path as typed.
        what: What the file is for, as the error calls it.

    Raises:
        ModelError: Nothing is there, or a folder, or an empty file.
    """
    path = Path(spec).expanduser()
    refusal = unreachable(path)
    if refusal is not None:
        raise ModelError(f"{what} {spec} cannot be read: {refusal}", hint=_PERMISSIONS)
    if path.is_dir():
        raise ModelError(f"{what} {spec} is a folder, not a file", hint="name the file inside it")
    if not path.exists():
        raise ModelError(f"{what} {spec} does not exist", hint=_similar(path))
    try:
        with path.open("rb") as handle:
            empty = not handle.read(1)
    except OSError as reason:
        raise ModelError(
            f"{what} {spec} cannot be read: {reason.strerror or reason}",
            hint=_PERMISSIONS,
        ) from reason
    if empty:
        raise ModelError(f"{what} {spec} is empty (0 bytes)", hint="save or download it again")
    return path


def container_of(path: Path) -> Container:
    """Say which format the file has; its content is not interpreted."""
    with path.open("rb") as handle:
        start = handle.read(4)
    if start[:1] == b"\x80":
        return Container.OLD_TORCH_SAVE
    if start != b"PK\x03\x04":
        return Container.BROKEN
    try:
        with zipfile.ZipFile(path) as archive:
            return _kind_of_zip(require_plain_zip(archive, path))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return Container.BROKEN


def require_plain_zip(archive: zipfile.ZipFile, path: Path) -> list[str]:
    """Return the members' names below the root folder of an archive that torch could have written.

    torch stores without compression and under one folder. Holding files to that rules out zip
    bombs, climbing paths, and two readers seeing two different members under one name.

    Raises:
        ModelError: The archive breaks one of these rules.
    """
    infos = archive.infolist()
    names = [info.filename for info in infos]
    problem = None
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        problem = "its members are compressed, and torch never compresses"
    elif sum(info.file_size for info in infos) > path.stat().st_size:
        problem = "its members claim more bytes than the file has"
    elif len({name.lower() for name in names}) != len(names):
        problem = "two members share a name"
    elif any(_climbs(name) for name in names):
        problem = "a member's name leaves the archive"
    elif len({name.partition("/")[0] for name in names}) != 1:
        problem = "its members lie under more than one folder"
    if problem is not None:
        raise ModelError(
            f"{path} is not an archive that torch wrote: {problem}",
            hint="save the model again with torch.save or torch.export.save",
        )
    return [name.partition("/")[2] for name in names]


def _climbs(name: str) -> bool:
    return name.startswith("/") or "\\" in name or ".." in name.split("/") or "\0" in name


def _kind_of_zip(names: list[str]) -> Container:
    members = set(names)
    if "archive_format" in members or any(name.startswith("models/") for name in names):
        return Container.EXPORTED
    if "constants.pkl" in members or any(name.startswith("code/") for name in names):
        return Container.TORCHSCRIPT
    return Container.TORCH_SAVE if "data.pkl" in members else Container.OTHER_ZIP


def _similar(path: Path) -> str:
    try:
        there = [entry.name for entry in path.parent.iterdir() if entry.suffix in _KNOWN]
    except OSError:
        return f"the folder {path.parent} does not exist"
    close = difflib.get_close_matches(path.name, there, n=3, cutoff=0.4)
    if close:
        return f"did you mean {' or '.join(str(path.parent / name) for name in close)}?"
    return "check the path"
