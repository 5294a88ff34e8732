"""Every network of the coverage benchmark, built with random weights.

A network is named ``source:name``, for example ``timm:vit_tiny_patch16_224``.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo import detection, huggingface
from zoo.names import ONNX_SUBSET, TIMM

Inputs = tuple[Any, ...]
"""Positional inputs, batch first."""

FAMILIES = ("huggingface", "timm", "detection", "torchvision")

_BIG = 200_000_000
"""Parameters beyond which a network is run alone."""

_SIZES = (64, 96, 128, 160, 192, 224)
"""Image sizes to try, for networks that take any."""


@dataclass(frozen=True)
class Network:
    """One network of the benchmark.

    Args:
        family: One of :data:`FAMILIES`.
        name: What the family calls it.
        params: Number of parameters where known beforehand, else 0.
    """

    family: str
    name: str
    params: int = 0

    @property
    def key(self) -> str:
        """Name in the results."""
        return f"{self.family}:{self.name}"

    @property
    def big(self) -> bool:
        """Whether memory allows no other beside it."""
        return self.params > _BIG

    @property
    def exported(self) -> bool:
        """Whether it belongs to the subset that is compared with ONNX."""
        return self.key in ONNX_SUBSET

    def build(self) -> tuple[nn.Module, Inputs]:
        """Return the network in evaluation mode and inputs with a batch of two."""
        torch.manual_seed(0)
        builders: dict[str, Callable[[str], tuple[nn.Module, Inputs]]] = {
            "torchvision": _torchvision,
            "timm": _timm,
            "huggingface": huggingface.build,
            "detection": _detection,
        }
        model, inputs = builders[self.family](self.name)
        return randomize(model).eval(), inputs


def networks(families: Sequence[str] = FAMILIES, pattern: str = "*") -> list[Network]:
    """Return the networks of some families whose key matches, the big ones last."""
    found = [network for family in families for network in _LISTS[family]()]
    chosen = [network for network in found if fnmatch.fnmatch(network.key, pattern)]
    return sorted(chosen, key=lambda network: network.big)


def find(key: str) -> Network:
    """Return one network by its key."""
    return next(network for network in networks() if network.key == key)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Make no channel like another: random statistics, and noise where a tensor is constant.

    Residual branches scaled by zero or 1e-6 and classifiers of zeros would hide every error.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                for tensor, low, high in (
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2.0),
                ):
                    if isinstance(tensor, Tensor):
                        tensor.uniform_(low, high, generator=generator)
        for parameter in model.parameters():
            if parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
                _vary(parameter, generator)
    return model


def _vary(parameter: Tensor, generator: torch.Generator) -> None:
    """Replace equal entries by random ones of a similar use."""
    if parameter.flatten()[0].abs() >= 0.5:  # a scale
        parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5, generator=generator))
    elif parameter.dim() < 2 or parameter.numel() == max(parameter.shape):
        # an offset, the scale of a layer
        parameter.uniform_(-0.5, 0.5, generator=generator)
    else:
        fan_in = parameter.numel() / parameter.shape[0]
        parameter.normal_(0, fan_in**-0.5, generator=generator)


# ---- torchvision --------------------------------------------------------------------------------


def _torchvision_list() -> list[Network]:
    from torchvision import models

    found = []
    for module in (models, models.segmentation):
        for name in models.list_models(module=module):
            weights = models.get_model_weights(name)
            found.append(Network("torchvision", name, next(iter(weights)).meta["num_params"]))
    return sorted(found, key=lambda network: network.params)


def _torchvision(name: str) -> tuple[nn.Module, Inputs]:
    from torchvision import models

    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # minutes of truncated normals
    if name.startswith("vit_"):
        options["image_size"] = 4 * int(name.rsplit("_", 1)[1])
    if name.startswith(("fcn", "deeplab", "lraspp")):
        options["weights_backbone"] = None
    model = models.get_model(name, **options).eval()
    sizes = (options["image_size"],) if "image_size" in options else _SIZES
    return model, (_smallest(model, sizes),)


def _smallest(model: nn.Module, sizes: Sequence[int]) -> Tensor:
    """Return two images of the smallest size that the model accepts."""
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        images = torch.randn(2, 3, size, size, generator=generator)
        try:
            with torch.no_grad():
                model(images)
        except Exception:  # every model has its own way to refuse a size
            if size == sizes[-1]:
                raise
        else:
            return images
    raise ValueError("no size to try")


# ---- timm ---------------------------------------------------------------------------------------


def _timm_list() -> list[Network]:
    return [Network("timm", name) for name in TIMM]


def _timm(name: str) -> tuple[nn.Module, Inputs]:
    import timm

    model: Any = timm.create_model(name, pretrained=False).eval()
    config = model.pretrained_cfg
    own = int(config["input_size"][-1])
    small = () if config.get("fixed_input_size") else _SIZES
    return model, (_smallest(model, (*(size for size in small if size < own), own)),)


# ---- detection, Hugging Face --------------------------------------------------------------------


def _detection_list() -> list[Network]:
    return [Network("detection", name) for name in detection.NAMES]


def _detection(name: str) -> tuple[nn.Module, Inputs]:
    model = detection.build(name)
    return model, (_smallest(model, (128, 192, 256, 320)),)


def _huggingface_list() -> list[Network]:
    return [Network("huggingface", name) for name in huggingface.NAMES]


_LISTS: dict[str, Callable[[], list[Network]]] = {
    "torchvision": _torchvision_list,
    "timm": _timm_list,
    "huggingface": _huggingface_list,
    "detection": _detection_list,
}
