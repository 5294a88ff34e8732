"""The networks that are pruned, each with images that are strictly apart.

Calibration images rank and repair, without their labels (torch-pruning alone is given them).
Selection images choose between variants of one method. Test images are looked at once, for the
figure in the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.lowdata.photographs import BATCH, PHOTOGRAPHED, lite_network, photographs
from benchmarks.networks import DEPTHS, load, normalised

SUBJECTS = (*DEPTHS, *PHOTOGRAPHED)

_POOLED = 400
"""Photographs that calibration images are drawn from; so many more are for selection and test."""

_SELECTED = 100


@dataclass(frozen=True)
class Images:
    """Images with their labels.

    Args:
        x: (n_images, 3, height, width), normalised.
        y: (n_images,) class numbers.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def part(self, places: slice | Tensor) -> Images:
        """Return some of them."""
        return Images(self.x[places], self.y[places])


@dataclass(frozen=True)
class Subject:
    """A network and its images.

    Args:
        name: One of :data:`SUBJECTS`.
        model: The network, in evaluation mode.
        pool: Images that calibration images are drawn from.
        selection: Images that choose between variants.
        test: Images that measure.
        streams: Layers that write to residual streams through shortcuts padded with zeros, which
            torch-pruning takes for elementwise.
    """

    name: str
    model: nn.Module
    pool: Images
    selection: Images
    test: Images
    streams: tuple[str, ...] = ()

    def calibration(self, count: int, seed: int) -> Images:
        """Draw calibration images, different ones for every seed.

        Raises:
            ValueError: There are not so many.
        """
        if count > len(self.pool):
            raise ValueError(
                f"{count} calibration images were asked for, {self.name} has {len(self.pool)}"
            )
        generator = torch.Generator().manual_seed(seed)
        return self.pool.part(torch.randperm(len(self.pool), generator=generator)[:count])


@dataclass(frozen=True)
class Sources:
    """Where networks and images come from.

    Args:
        shared: Folder of CIFAR networks and images.
        weights: File of the weights of a network for photographs; None to look for the package
            that ships it.
        photographs: Folder of one photograph a class; None if there is none.
        size: Height and width of photographs.
        test: Test images at most.
    """

    shared: Path
    weights: Path | None
    photographs: Path | None
    size: int
    test: int


def find(name: str, sources: Sources) -> Subject:
    """Return a network with its images."""
    return _photographed(name, sources) if name in PHOTOGRAPHED else _residual(name, sources)


def hits(model: nn.Module, images: Images) -> Tensor:
    """Return which images are classified rightly, (n_images,) Bool."""
    with torch.inference_mode():
        found = [model(part).argmax(1) for part in images.x.split(BATCH)]
    return torch.cat(found) == images.y


def _residual(name: str, sources: Sources) -> Subject:
    model = load(name, sources.shared, sources.shared)
    pool = _read(sources.shared / "data" / "cifar10_calibration.npz")
    rest = _read(sources.shared / "data" / "cifar10_eval.npz")
    half = len(rest) // 2
    layers = [layer for layer, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return Subject(
        name,
        model,
        pool,
        selection=rest.part(slice(half, half + sources.test // 2)),
        test=rest.part(slice(min(sources.test, half))),
        streams=tuple(layer for layer in layers if layer == "conv1" or layer.endswith("conv2")),
    )


def _read(file: Path) -> Images:
    with np.load(file) as arrays:
        return Images(normalised(arrays["x"]), torch.from_numpy(arrays["y"]).long())


def _photographed(name: str, sources: Sources) -> Subject:
    if sources.photographs is None:
        raise ValueError(f"{name} needs photographs; name their folder: --photographs")
    images = Images(*photographs(sources.photographs, sources.size))
    apart = _POOLED + _SELECTED
    return Subject(
        name,
        lite_network(name, sources.weights),
        pool=images.part(slice(_POOLED)),
        selection=images.part(slice(_POOLED, apart)),
        test=images.part(slice(apart, apart + sources.test)),
    )
