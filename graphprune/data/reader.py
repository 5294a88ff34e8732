"""From a `DataSource` to calibration batches."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

import torch

from graphprune.data.arrays import read_arrays
from graphprune.data.batches import CalibrationBatches, as_batches, collected
from graphprune.data.images import read_images
from graphprune.data.prepare import normalised, prepared
from graphprune.data.source import DataSource
from graphprune.data.validate import require_labels
from graphprune.errors import DataError
from graphprune.factories import call_factory
from graphprune.files import unreachable

_ARRAYS = (".npy", ".npz", ".safetensors")
_FORMS = (
    "an .npz, .npy or .safetensors file, a folder of images, package.module:factory or "
    "path/file.py:factory"
)


def load_data(source: DataSource, *, batch_size: int = 64) -> CalibrationBatches:
    """Read calibration data.

    No form of it is ever unpickled; naming a factory is asking for its code to run.

    Args:
        source: What to read and how to prepare it.
        batch_size: Images in one batch.

    Raises:
        DataError: It is not there, is malformed, or does not go with the preparation asked for.
    """
    if source.limit is not None and source.limit < 1:
        raise DataError(f"the limit is {source.limit} images", hint="give at least 1")
    if source.runs_code:
        return _from_factory(source, batch_size)
    path = _existing(source.spec)
    if path.is_dir():
        images, labels = read_images(path, source)
    else:
        arrays = read_arrays(path, source.spec)
        _require_same_length(arrays.x, arrays.y, source.spec)
        images, labels = arrays.x, arrays.y if arrays.y is None else arrays.y[: source.limit]
    x = prepared(images, source, f"{source.spec}: x")
    y = require_labels(labels, x.shape[0], f"{source.spec}: y")
    return collected(x, y, batch_size=batch_size, source=path.name)


def _require_same_length(x: torch.Tensor, y: torch.Tensor | None, spec: str) -> None:
    # Before the limit is applied, so that it does not hide that labels and images do not match.
    if y is not None and x.dim() and y.dim() and len(x) != len(y):
        raise DataError(
            f"{spec}: y has {len(y)} labels for {len(x)} images", hint="give one label per image"
        )


def _from_factory(source: DataSource, batch_size: int) -> CalibrationBatches:
    if source.size is not None:
        raise DataError(
            f"--resize does not apply to {source.spec}", hint="resize the images in the factory"
        )
    found = as_batches(call_factory(source.spec, error=DataError), batch_size=batch_size)
    if source.limit is not None:
        found = found.head(source.limit)
    if source.mean is not None or source.std is not None:
        found = as_batches(
            [
                replace(batch, inputs=(normalised(batch.inputs[0], source, source.spec),))
                for batch in found
            ]
        )
    return replace(found, source=source.spec)


def _existing(spec: str) -> Path:
    path = Path(spec).expanduser()
    refusal = unreachable(path)
    if refusal is not None:
        raise DataError(
            f"data {spec} cannot be read: {refusal}",
            hint="check its permissions, and those of its folder",
        )
    if not path.exists():
        if "/" not in spec and not path.suffix:
            raise DataError(
                f"{spec!r} is none of the forms of DATA: {_FORMS}", hint="check the path"
            )
        raise DataError(f"data {spec} does not exist", hint=_similar(path))
    if path.is_dir():
        return path
    if path.suffix.lower() not in _ARRAYS:
        raise DataError(f"data {spec} is of an unknown kind", hint=f"give {_FORMS}")
    if path.stat().st_size == 0:
        raise DataError(f"data {spec} is empty (0 bytes)", hint="save or download it again")
    return path


def _similar(path: Path) -> str:
    try:
        there = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return f"the folder {path.parent} does not exist"
    close = difflib.get_close_matches(path.name, there, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(str(path.parent / name) for name in close)}?"
    return "check the path"
