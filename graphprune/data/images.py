"""A folder of images: class subfolders, sorted by name, give the labels; a flat folder has none."""

from __future__ import annotations

import importlib
import itertools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphprune.data.source import DataSource
from graphprune.errors import DataError

_SUFFIXES = frozenset([".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
_GREY = frozenset({"1", "L"})
_DEEP = frozenset({"F", "I", "I;16", "I;16B", "I;16L", "I;16N"})


@dataclass(frozen=True, kw_only=True)
class _Listed:
    path: Path
    label: int | None


def read_images(folder: Path, source: DataSource) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Read a folder of images.

    Images are RGB, or have one channel if all of them are grey. Hidden files and files that are no
    images by their suffix are left out.

    Returns:
        uint8 images NHWC, and labels if there are class subfolders.

    Raises:
        DataError: There are none, one cannot be read, or sizes differ and ``resize`` is not given.
    """
    image_module = _pillow()
    listed = _listing(folder, source.spec)[: source.limit]
    with warnings.catch_warnings():
        # A picture of absurd size is refused, not warned about.
        warnings.simplefilter("error", image_module.DecompressionBombWarning)
        pictures = [_opened(image_module, item.path, source.size) for item in listed]
    _require_equal_sizes(listed, pictures)
    mode = "L" if all(picture.mode in _GREY for picture in pictures) else "RGB"
    stacked = np.stack([_pixels(picture, mode) for picture in pictures])
    labels = [item.label for item in listed if item.label is not None]
    return torch.from_numpy(stacked), torch.tensor(labels) if labels else None


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as reason:
        raise DataError(
            "pillow is needed to read a folder of images and is missing",
            hint="pip install 'graphprune[vision]'",
        ) from reason


def _listing(folder: Path, spec: str) -> list[_Listed]:
    flat = _images_in(folder)
    classes = [entry for entry in sorted(folder.iterdir()) if _is_class(entry)]
    if flat and classes:
        raise DataError(
            f"{spec} has both images ({flat[0].name}, ...) and class folders "
            f"({classes[0].name}, ...), so some would have no label",
            hint="keep images in class folders only, or in one flat folder",
        )
    if classes:
        columns = [
            [_Listed(path=path, label=label) for path in _images_in(entry)]
            for label, entry in enumerate(classes)
        ]
        # One of each class in turn, so that the first N images are of all classes.
        turns = itertools.zip_longest(*columns)
        return [item for turn in turns for item in turn if item is not None]
    if not flat:
        raise DataError(
            f"the folder {spec} has no images", hint=f"images end in {' '.join(sorted(_SUFFIXES))}"
        )
    return [_Listed(path=path, label=None) for path in flat]


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    )


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".") and bool(_images_in(entry))


def _opened(image_module: Any, path: Path, size: tuple[int, int] | None) -> Any:
    try:
        with image_module.open(path) as picture:
            if picture.mode in _DEEP:
                raise DataError(
                    f"{path} has more than 8 bits per pixel", hint="convert it to 8 bits first"
                )
            plain = picture.convert("L" if picture.mode in _GREY else "RGB")
    except DataError:
        raise
    except Exception as reason:
        raise DataError(
            f"{path} is not a readable image ({reason})", hint="remove it from the folder"
        ) from reason
    if size is None:
        return plain
    height, width = size
    return plain.resize((width, height), image_module.Resampling.BILINEAR)


def _require_equal_sizes(listed: list[_Listed], pictures: list[Any]) -> None:
    first = pictures[0].size
    for item, picture in zip(listed, pictures, strict=True):
        if picture.size != first:
            raise DataError(
                f"images differ in size: {listed[0].path.name} is {first[0]}x{first[1]} and "
                f"{item.path.name} is {picture.size[0]}x{picture.size[1]} (width x height)",
                hint="give one size for all with --resize",
            )


def _pixels(picture: Any, mode: str) -> np.ndarray:
    pixels: np.ndarray = np.asarray(picture.convert(mode))
    return pixels[..., None] if mode == "L" else pixels
