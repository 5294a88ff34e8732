"""The networks: small ones for digits, a VGG-like one and a pretrained ResNet-20 for CIFAR-10.

Images to train on, to rank and fine-tune on, and to judge on are apart. Digits are scikit-learn's,
8 by 8 pixels in ten classes, the only photographs of handwriting that a package ships.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.lowdata.subjects import Images, hits
from benchmarks.networks import load, normalised

_TRAINED, _POOLED = 1000, 300
"""Digits to train on, and to rank and fine-tune on; 497 are left to judge on."""

_EPOCHS = 20
_CIFAR_POOLED = 512


@dataclass(frozen=True)
class Case:
    """A trained network and images that it was not trained on.

    Args:
        name: One of :data:`CASES`.
        model: The network, in evaluation mode.
        pool: Images that rank and fine-tune, with labels.
        test: Images that judge.
    """

    name: str
    model: nn.Module
    pool: Images
    test: Images

    def drawn(self, count: int, seed: int) -> Images:
        """Draw images that rank or fine-tune."""
        generator = torch.Generator().manual_seed(seed)
        return self.pool.part(torch.randperm(len(self.pool), generator=generator)[:count])


def dense(width: int = 128) -> nn.Sequential:
    """Return an untrained network of two hidden layers for digits."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def convolutional() -> nn.Sequential:
    """Return an untrained network of two convolutions and a dense layer for digits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def digits() -> Images:
    """Return all digits in an order that mixes classes, (1797, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    pixels = torch.from_numpy(x[order] / 8 - 1).float().reshape(-1, 1, 8, 8)
    return Images(pixels, torch.from_numpy(y[order]).long())


def split(images: Images) -> tuple[Images, Images, Images]:
    """Return digits to train on, to rank on and to judge on."""
    apart = _TRAINED + _POOLED
    return (
        images.part(slice(_TRAINED)),
        images.part(slice(_TRAINED, apart)),
        images.part(slice(apart, None)),
    )


def _of_digits(name: str, build: Callable[[], nn.Module], shared: Path, cache: Path) -> Case:
    del shared, cache
    train, pool, test = split(digits())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
        _fit(model, train)
    return Case(name, model.eval(), pool, test)


def _fit(model: nn.Module, images: Images) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(_EPOCHS):
        for places in torch.randperm(len(images), generator=generator).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(images.x[places]), images.y[places]).backward()
            optimizer.step()


def _of_cifar(name: str, shared: Path, cache: Path) -> Case:
    # What calibrates is apart from what the VGG-like network is trained on here.
    with np.load(shared / "data" / "cifar10_calibration.npz") as arrays:
        images = Images(normalised(arrays["x"]), torch.from_numpy(arrays["y"]).long())
    pool, test = images.part(slice(_CIFAR_POOLED)), images.part(slice(_CIFAR_POOLED, None))
    return Case(name, load(name, shared, cache), pool, test)


_BUILDERS: dict[str, Callable[[Path, Path], Case]] = {
    "mlp": partial(_of_digits, "mlp", dense),
    "cnn": partial(_of_digits, "cnn", convolutional),
    "vgg": partial(_of_cifar, "vgg"),
    "resnet20": partial(_of_cifar, "resnet20"),
}

CASES = tuple(_BUILDERS)


def find(name: str, shared: Path, cache: Path) -> Case:
    """Return a case; networks for digits are trained in seconds, the VGG-like one in minutes.

    Args:
        name: One of :data:`CASES`.
        shared: Folder of CIFAR networks and images.
        cache: Folder where the VGG-like network is kept.
    """
    return _BUILDERS[name](shared, cache)


def accuracy(model: nn.Module, images: Images) -> float:
    """Return the share of images classified rightly."""
    return float(hits(model, images).double().mean())


def as_data(images: Images) -> tuple[Tensor, Tensor]:
    """Return images as :func:`graphprune.rank` takes them, labels included."""
    return images.x, images.y
