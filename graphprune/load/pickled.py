"""Pickled modules: ``torch.save(model, "model.pt")``, read without running what they name."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.errors import ModelError, TrustError
from graphprune.load.allowlist import allowance_for
from graphprune.load.containers import Container, container_of, existing_file
from graphprune.load.opcodes import require_only_created

_TRUST_HINT = "if you trust whoever made it, add --trust: reading it then runs what it contains"
_DAMAGED = "it is damaged or cut short"
_REFUSED_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_MAX_LISTED = 8


def read_module(spec: str, *, trust: bool) -> nn.Module:
    """Read the module pickled in a ``.pt`` or ``.pth`` file.

    Args:
        spec: The path as typed.
        trust: Unpickle everything, which runs whatever the file says.

    Raises:
        TrustError: The file names something that is not a plain layer, and ``trust`` is false.
        ModelError: The file holds no module, or cannot be read.
    """
    path = existing_file(spec, what="model file")
    _require_torch_save(path, spec)
    loaded = _load_anything(path, spec) if trust else _load_layers(path, spec)
    if isinstance(loaded, nn.Module):
        return loaded
    raise _not_a_module(loaded, spec)


def read_pickled_weights(spec: str, *, trust: bool) -> object:
    """Read what a weights file holds; tensors and plain containers only, unless trusted.

    Raises:
        TrustError: The file names something else.
        ModelError: The file cannot be read.
    """
    path = existing_file(spec, what="weights file")
    kind = container_of(path)
    if kind not in (Container.TORCH_SAVE, Container.OLD_TORCH_SAVE):
        raise ModelError(
            f"weights file {spec} is not a state dict that torch saved: it is {_said(kind)}",
            hint="save one with torch.save(model.state_dict(), FILE)",
        )
    if trust:
        return _load_anything(path, spec)
    try:
        return _load(path, weights_only=True)
    except Exception as reason:
        raise _refused_weights(path, spec, reason) from reason


def _require_torch_save(path: Path, spec: str) -> None:
    kind = container_of(path)
    advice = {
        Container.TORCHSCRIPT: "TorchScript cannot be pruned; save the eager module instead",
        Container.EXPORTED: "rename it to end in .pt2",
        Container.OLD_TORCH_SAVE: "load it in Python and save it again with today's torch.save",
        Container.OTHER_ZIP: "save the model with torch.save(model, FILE)",
        Container.BROKEN: "save or download it again",
    }
    if kind in advice:
        raise ModelError(
            f"{spec} is not a module that torch.save wrote: it is {_said(kind)}", hint=advice[kind]
        )


def _said(kind: Container) -> str:
    return {
        Container.TORCHSCRIPT: "a TorchScript archive",
        Container.EXPORTED: "an exported program",
        Container.OLD_TORCH_SAVE: "in the format from before torch 1.6",
        Container.BROKEN: "damaged, cut short or of another format",
    }.get(kind, kind.value)


def _load_layers(path: Path, spec: str) -> object:
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        pickle = bytes(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"))
    except Exception as reason:
        raise _unreadable(spec, reason) from reason
    allowance = allowance_for(wanted)
    if allowance.refused:
        raise _wants(spec, allowance.refused)
    if allowance.modules:
        require_only_created(pickle, allowance, path=spec)
    try:
        with torch.serialization.safe_globals(list(allowance.allowed)):
            return _load(path, weights_only=True)
    except Exception as reason:
        raise _unreadable(spec, reason) from reason


def _load_anything(path: Path, spec: str) -> object:
    try:
        with _importable_from(path.resolve().parent, Path.cwd()):
            return _load(path, weights_only=False)
    except (AttributeError, ImportError) as reason:
        raise ModelError(
            f"{spec} needs a class that cannot be imported here: {_first_line(reason)}",
            hint="run from the folder of the model's code, or give package.module:factory and "
            "--weights",
        ) from reason
    except Exception as reason:
        raise _unreadable(spec, reason) from reason


def _load(path: Path, *, weights_only: bool) -> object:
    with warnings.catch_warnings():
        # torch warns about its own storage classes and about code that changed since saving.
        warnings.simplefilter("ignore")
        loaded: object = torch.load(path, map_location="cpu", weights_only=weights_only)
    return loaded


@contextmanager
def _importable_from(*folders: Path) -> Iterator[None]:
    added = [str(folder) for folder in folders]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


def _wants(spec: str, names: tuple[str, ...]) -> TrustError:
    shown = ", ".join(names[:_MAX_LISTED])
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return TrustError(
        f"{spec} is a pickle that uses {shown}{more}; without --trust only layers of torch, "
        "torchvision and timm are read",
        hint=_TRUST_HINT,
    )


def _refused_weights(path: Path, spec: str, reason: Exception) -> ModelError:
    names = _REFUSED_GLOBAL.findall(str(reason))
    if not names:
        return _unreadable(spec, reason)
    if container_of(path) is Container.TORCH_SAVE:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return TrustError(
        f"weights file {spec} holds more than tensors: it uses "
        f"{', '.join(sorted(names)[:_MAX_LISTED])}",
        hint="give a state dict, torch.save(model.state_dict(), FILE), or add --trust if you "
        "trust whoever made it",
    )


def _unreadable(spec: str, reason: Exception) -> ModelError:
    detail = _first_line(reason)
    return ModelError(
        f"{spec} cannot be read, {_DAMAGED} ({detail})", hint="save or download it again"
    )


def _not_a_module(loaded: Any, spec: str) -> ModelError:
    stem = f"--weights {spec}"
    if isinstance(loaded, Mapping):
        tensors = [value for value in loaded.values() if isinstance(value, torch.Tensor)]
        if tensors and len(tensors) == len(loaded):
            return ModelError(
                f"{spec} holds weights only, {len(tensors)} tensors without an architecture",
                hint=f"give the architecture as MODEL, e.g. torchvision:resnet18 {stem}",
            )
        keys = ", ".join(str(key) for key in list(loaded)[:_MAX_LISTED])
        return ModelError(
            f"{spec} holds a checkpoint with the keys {keys or '(none)'}, not a module",
            hint=f"give the architecture as MODEL, e.g. torchvision:resnet18 {stem}",
        )
    return ModelError(
        f"{spec} holds a {type(loaded).__name__}, not a torch.nn.Module",
        hint="save the whole module with torch.save(model, FILE)",
    )


def _first_line(reason: Exception) -> str:
    lines = str(reason).strip().splitlines()
    return f"{type(reason).__name__}: {lines[0]}" if lines else type(reason).__name__
