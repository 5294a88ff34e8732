"""What a module must be before anything is done with it: there, finished, and finite."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from graphprune.errors import ModelError


def require_usable(module: nn.Module, spec: str) -> None:
    """Check a loaded module.

    Raises:
        ModelError: It is TorchScript, has no parameters, has some without values, or has NaN or
            infinity among them.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"{spec} is a TorchScript module, which cannot be pruned", hint="give the eager module"
        )
    if next(module.parameters(), None) is None:
        raise ModelError(
            f"{spec} ({type(module).__name__}) has no parameters, so there is nothing to prune",
            hint="give the network itself",
        )
    for name, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        _require_values(name, value, spec)


def _require_values(name: str, value: torch.Tensor, spec: str) -> None:
    if is_lazy(value):
        raise ModelError(
            f"{spec}: {name} is lazy and has no shape yet",
            hint="run the model once on an input before saving or returning it",
        )
    if value.is_meta:
        raise ModelError(
            f"{spec}: {name} is on the meta device and has no values",
            hint="build the model on the CPU and load its weights",
        )
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ModelError(
            f"{spec}: {name} contains NaN or infinity", hint="use a checkpoint from before that"
        )
