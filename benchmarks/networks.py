"""The networks that benchmarks play on, each of which can be cut in front of any layer.

Residual networks take pretrained weights; the plain one is trained here, once, for a few minutes.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = {"resnet20": 3, "resnet56": 9}
"""Blocks a stage, by the name of the file of weights."""

NETWORKS = (*DEPTHS, "vgg")

_EPOCHS = 12
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Cut:
    """A network in two parts.

    Args:
        before: Images -> what the layer reads, and what goes round it.
        after: What ``before`` returned -> logits.
    """

    before: Callable[[Tensor], tuple[Tensor, ...]]
    after: Callable[..., Tensor]


class Network(nn.Module, ABC):
    """A network that can be cut."""

    @abstractmethod
    def cut(self, layer: str) -> Cut:
        """Cut directly in front of a layer, given by its name."""


# ---- residual networks --------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions, and a shortcut that pads with zeros where it has to widen."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.padding = stride, (width - width_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block adds up."""
        return self.second(*self.first(x))

    def first(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the second convolution reads, and the shortcut."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        if self.stride > 1 or self.padding:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, self.padding, self.padding))
        return hidden, x

    def second(self, hidden: Tensor, shortcut: Tensor) -> Tensor:
        """Go on from what :meth:`first` returned."""
        return F.relu(self.bn2(self.conv2(hidden)) + shortcut)


class ResidualNetwork(Network):
    """A CIFAR ResNet (He et al. 2015, section 4.2, shortcuts of kind A)."""

    def __init__(self, depth: int, widths: tuple[int, int, int] = (16, 32, 64)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for stage, width in enumerate(widths, 1):
            blocks = [Block(before, width, 1 if stage == 1 else 2)]
            blocks += [Block(width, width, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            before = width
        self.linear = nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        return self._from(0, self._stem(x))

    def cut(self, layer: str) -> Cut:
        """Cut directly in front of a layer, given by its name."""
        names = [name for name, module in self.named_modules() if isinstance(module, Block)]
        owner, _, place = layer.rpartition(".")
        if layer == "linear":
            return Cut(lambda x: (self._pooled(0, self._stem(x)),), self.linear)
        start = names.index(owner)
        if place == "conv1":
            return Cut(lambda x: (self._through(0, start, x),), lambda x: self._from(start, x))
        block = self._blocks()[start]
        return Cut(
            lambda x: block.first(self._through(0, start, x)),
            lambda hidden, shortcut: self._from(start + 1, block.second(hidden, shortcut)),
        )

    def _blocks(self) -> list[Block]:
        return [module for module in self.modules() if isinstance(module, Block)]

    def _stem(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))

    def _through(self, start: int, stop: int, x: Tensor) -> Tensor:
        x = self._stem(x)
        for block in self._blocks()[start:stop]:
            x = block(x)
        return x

    def _pooled(self, start: int, x: Tensor) -> Tensor:
        for block in self._blocks()[start:]:
            x = block(x)
        return x.mean((2, 3))

    def _from(self, start: int, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self._pooled(start, x))
        return logits


# ---- plain networks -----------------------------------------------------------------------------

_POOL = 0


class PlainNetwork(Network):
    """Convolutions one after the other, as in VGG with BatchNorm.

    Args:
        widths: Channels of each convolution; 0 halves the image.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            if width == _POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(before, width, 3, 1, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        logits: Tensor = self.linear(self.features(x).mean((2, 3)))
        return logits

    def cut(self, layer: str) -> Cut:
        """Cut directly in front of a layer, given by its name."""
        if layer == "linear":
            return Cut(lambda x: (self.features(x).mean((2, 3)),), self.linear)
        place = int(layer.rpartition(".")[2])
        before, after = self.features[:place], self.features[place:]
        return Cut(lambda x: (before(x),), lambda x: self.linear(after(x).mean((2, 3))))


VGG_WIDTHS = (32, 32, _POOL, 64, 64, _POOL, 128, 128, _POOL, 128, 128)


# ---- weights and images -------------------------------------------------------------------------


def load(name: str, shared: Path, cache: Path) -> Network:
    """Return a network in eval mode.

    Args:
        name: One of :data:`NETWORKS`.
        shared: Folder with the pretrained weights and the images.
        cache: Folder where weights are kept that were trained here.
    """
    if name in DEPTHS:
        network = ResidualNetwork(DEPTHS[name])
        network.load_state_dict(torch.load(shared / "models" / f"{name}.pt", weights_only=True))
        return network.eval()
    return _trained(shared, cache)


def calibration_images(shared: Path, count: int) -> Tensor:
    """Return the first calibration images, normalised."""
    return normalised(np.load(shared / "data" / "cifar10_calibration.npz")["x"][:count])


def _trained(shared: Path, cache: Path) -> PlainNetwork:
    torch.manual_seed(0)
    network = PlainNetwork(VGG_WIDTHS)
    file = cache / f"vgg-{'-'.join(map(str, VGG_WIDTHS))}-{_EPOCHS}.pt"
    if not file.exists():
        arrays = np.load(shared / "data" / "cifar10_eval.npz")
        train(network, normalised(arrays["x"]), torch.from_numpy(arrays["y"]), _EPOCHS)
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}")
        torch.save(network.state_dict(), unfinished)
        unfinished.replace(file)
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train with a one-cycle rate, mirrored images and small shifts."""
    generator = torch.Generator().manual_seed(0)
    batch, steps = 64, epochs * (len(images) // 64)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for places in torch.randperm(len(images), generator=generator).split(batch):
            if len(places) < batch:
                continue
            loss = F.cross_entropy(network(_moved(images[places], generator)), labels[places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    network.eval()


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    down, right, mirror = torch.randint(0, 9, (3,), generator=generator).tolist()
    padded = F.pad(images, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]
    return padded.flip(3) if mirror % 2 else padded


def normalised(images: np.ndarray) -> Tensor:
    """Return uint8 images (N, H, W, 3) as the networks take them, (N, 3, H, W)."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1)
    return x.contiguous()
