"""Weights: a state dict from a file, fitted to a module."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from graphprune.errors import ModelError
from graphprune.load.containers import existing_file
from graphprune.load.pickled import read_pickled_weights

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIX = "module."
_MAX_LISTED = 4


def apply_weights(module: nn.Module, spec: str, *, trust: bool) -> None:
    """Load a state dict file into ``module``, in place.

    Args:
        module: The architecture.
        spec: A ``.pt``, ``.pth`` or ``.safetensors`` file. Common wrappers (``{"state_dict":
            ...}``) and the ``module.`` prefix of data-parallel training are taken off.
        trust: Unpickle everything, which runs whatever the file says.

    Raises:
        ModelError: The file holds no state dict, or one of another architecture.
    """
    state = _with_ties(module, _without_prefix(_state_of(_read(spec, trust=trust), spec)))
    _require_fit(module, state, spec)
    module.load_state_dict(state, strict=True)


def _read(spec: str, *, trust: bool) -> object:
    lowered = spec.lower()
    if lowered.endswith(".safetensors"):
        return _read_safetensors(spec)
    if lowered.endswith((".pt", ".pth", ".bin", ".ckpt", ".tar")):
        return read_pickled_weights(spec, trust=trust)
    existing_file(spec, what="weights file")
    raise ModelError(
        f"weights file {spec} is of an unknown kind",
        hint="give a .pt or .pth state dict, or .safetensors",
    )


def _read_safetensors(spec: str) -> object:
    path = existing_file(spec, what="weights file")
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ImportError as reason:
        raise ModelError(
            f"safetensors is needed to read {spec} and is missing", hint="pip install safetensors"
        ) from reason
    try:
        return cast(object, safetensors.load_file(path))
    except Exception as reason:
        raise ModelError(
            f"{spec} is not a readable safetensors file: {reason}", hint="download it again"
        ) from reason


def _state_of(loaded: object, spec: str) -> dict[str, torch.Tensor]:
    if isinstance(loaded, nn.Module):
        return loaded.state_dict()
    if isinstance(loaded, Mapping):
        for key in _WRAPPERS:
            if isinstance(loaded.get(key), Mapping):
                return _state_of(loaded[key], spec)
        others = [key for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
        if loaded and not others:
            return dict(loaded)
        found = f"a dict with the keys {', '.join(map(str, list(loaded)[:_MAX_LISTED]))}"
    else:
        found = f"a {type(loaded).__name__}"
    raise ModelError(
        f"weights file {spec} holds {found}, not a state dict (tensors by name)",
        hint="save one with torch.save(model.state_dict(), FILE)",
    )


def _without_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if all(name.startswith(_PREFIX) for name in state):
        return {name.removeprefix(_PREFIX): value for name, value in state.items()}
    return state


def _with_ties(module: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give all names of a tied parameter what the file holds under one of them."""
    named = dict(module.named_parameters(remove_duplicate=False))
    held = {id(named[name]): value for name, value in state.items() if name in named}
    ties = {name: held[id(its)] for name, its in named.items() if id(its) in held}
    return {**ties, **state}


def _require_fit(module: nn.Module, state: dict[str, torch.Tensor], spec: str) -> None:
    own = module.state_dict()
    wrong = [
        f"{name} is {_shape(state[name])} and should be {_shape(own[name])}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    parts = [
        _listed("missing", [name for name in own if name not in state]),
        _listed("unexpected", [name for name in state if name not in own]),
        _listed("wrong shape", wrong),
    ]
    if any(parts):
        raise ModelError(
            f"weights file {spec} does not fit {type(module).__name__}: "
            f"{'; '.join(part for part in parts if part)}",
            hint="check that MODEL is the architecture that these weights were trained with",
        )


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"{what}: {', '.join(names[:_MAX_LISTED])}{more}"
