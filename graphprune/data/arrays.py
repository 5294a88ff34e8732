"""Arrays in files (``.npy``, ``.npz``, ``.safetensors``): never unpickled, never over-allocated."""

from __future__ import annotations

import importlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

from graphprune.errors import DataError

_MAX_BYTES = 32 * 2**30
# deflate reaches about 1000 on zeros; images that were worth saving stay far below 200.
_MAX_RATIO = 200
_SMALL = 64 * 2**20
_KEYS = "'x' (uint8 NHWC or float NCHW) and optionally 'y' (class numbers)"


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """What a file of arrays holds.

    Args:
        x: Images as stored.
        y: Labels as stored, if any.
    """

    x: torch.Tensor
    y: torch.Tensor | None


def read_arrays(path: Path, spec: str) -> Arrays:
    """Read ``x`` and ``y`` from a file of arrays.

    Args:
        path: The file; its suffix says which format it has.
        spec: The path as typed, for errors.

    Raises:
        DataError: It is damaged, holds objects, or has other keys.
    """
    readers = {".npy": _read_npy_file, ".npz": _read_npz, ".safetensors": _read_safetensors}
    try:
        found = readers[path.suffix.lower()](path, spec)
    except DataError:
        raise
    except Exception as reason:
        raise DataError(
            f"{spec} is damaged or cut short ({type(reason).__name__}: {reason})",
            hint="save or download it again",
        ) from reason
    if "x" not in found:
        raise DataError(
            f"{spec} has the keys {', '.join(sorted(found)) or '(none)'}; it needs {_KEYS}",
            hint="save it with numpy.savez(FILE, x=images, y=labels)",
        )
    return Arrays(x=found["x"], y=found.get("y"))


def _read_npy_file(path: Path, spec: str) -> dict[str, torch.Tensor]:
    with path.open("rb") as stream:
        return {"x": _read_npy(stream, path.stat().st_size, spec)}


def _read_npz(path: Path, spec: str) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist()]
        if "x" not in keys:
            # The caller lists them; nothing else is worth decompressing.
            return {key: torch.empty(0) for key in keys}
        return {key: _read_member(archive, key, spec) for key in ("x", "y") if key in keys}


def _read_member(archive: zipfile.ZipFile, key: str, spec: str) -> torch.Tensor:
    info = archive.getinfo(f"{key}.npy")
    ratio = info.file_size / max(info.compress_size, 1)
    if info.file_size > _MAX_BYTES or (info.file_size > _SMALL and ratio > _MAX_RATIO):
        raise DataError(
            f"{spec}: {key} claims to unpack from {info.compress_size} to {info.file_size} bytes",
            hint="save the images with numpy.savez, uncompressed",
        )
    with archive.open(info) as stream:
        return _read_npy(stream, info.file_size, f"{spec}: {key}")


def _read_npy(stream: IO[bytes], size: int, where: str) -> torch.Tensor:
    version = np.lib.format.read_magic(stream)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise DataError(
            f"{where} is of .npy version {version[0]}.{version[1]}; 1.0 and 2.0 are read",
            hint="save it again with numpy.save",
        )
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise DataError(
            f"{where} is an array of Python objects, which reading would unpickle",
            hint="save plain numbers: x as uint8 or float, y as int64",
        )
    # The header alone decides how much numpy allocates, so it must fit what is there.
    needed = dtype.itemsize * int(np.prod([int(side) for side in shape], dtype=object))
    if needed > size - stream.tell():
        raise DataError(
            f"{where} is cut short: its header promises {needed} bytes and "
            f"{size - stream.tell()} are there",
            hint="save or download it again",
        )
    stream.seek(0)
    return _tensor(np.lib.format.read_array(stream, allow_pickle=False), where)


def _tensor(array: np.ndarray, where: str) -> torch.Tensor:
    if array.dtype.kind not in "uifb":
        raise DataError(
            f"{where} is of dtype {array.dtype}, not numbers", hint="save x as uint8 or float"
        )
    # torch knows the machine's own byte order only, and no long double.
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(native.reshape(array.shape))


def _read_safetensors(path: Path, spec: str) -> dict[str, torch.Tensor]:
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ImportError as reason:
        raise DataError(
            f"safetensors is needed to read {spec} and is missing", hint="pip install safetensors"
        ) from reason
    return dict(safetensors.load_file(path))
