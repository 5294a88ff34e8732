"""Architectures by name, from torchvision and timm, with random weights."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType

from torch import nn

from graphprune.errors import ModelError

_HINT = "pip install 'graphprune[vision]'"


def build_torchvision(name: str) -> nn.Module:
    """Build a torchvision model without pretrained weights.

    Raises:
        ModelError: torchvision is missing or has no such model.
    """
    models = _package("torchvision.models")
    _require_known(name, list(models.list_models()), "torchvision")
    # Detection and segmentation models would otherwise download a pretrained backbone.
    model = (
        models.get_model(name, weights=None, weights_backbone=None)
        if "weights_backbone" in models.get_model_builder(name).__annotations__
        else models.get_model(name, weights=None)
    )
    return _module(model, f"torchvision:{name}")


def build_timm(name: str) -> nn.Module:
    """Build a timm model without pretrained weights.

    Raises:
        ModelError: timm is missing or has no such model.
    """
    timm = _package("timm")
    architecture = name.partition(".")[0]
    _require_known(architecture, list(timm.list_models()), "timm")
    try:
        return _module(timm.create_model(name, pretrained=False), f"timm:{name}")
    except (RuntimeError, ValueError) as reason:
        raise ModelError(
            f"timm cannot build {name}: {reason}", hint="leave out the part after the dot"
        ) from reason


def _package(name: str) -> ModuleType:
    root = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as reason:
        raise ModelError(f"{root} is needed for {root}:NAME and is missing", hint=_HINT) from reason


def _require_known(name: str, known: list[str], package: str) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    options = " or ".join(f"{package}:{match}" for match in close)
    raise ModelError(
        f"{package} has no model {name!r}",
        hint=f"did you mean {options}?" if close else f"see the {package} documentation for names",
    )


def _module(model: object, spec: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec} is a {type(model).__name__}, not a torch.nn.Module")
    return model
