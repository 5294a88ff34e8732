"""Which names a pickled model may refer to without ``--trust``.

A pickle can call whatever it can name, so a name is allowed only when calling it is harmless:

- ``nn.Module`` classes defined in torch, torchvision or timm, whose whole inheritance lies there
  too. That leaves out ``torch.fx.GraphModule`` and ``torch.jit.ScriptModule``, which compile source
  text when they are unpickled, and every function, re-export and module attribute.
- ``functools.partial``, of which only allowed names can be made;
- a few enums and pure activation functions that real models store.

Even these classes may only be *created empty*, never called with arguments from the file; see
`graphprune.load.opcodes`.
"""

from __future__ import annotations

import enum
import functools
import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

_ROOTS = (
    "torch.nn.modules.",
    "torchvision.models.",
    "torchvision.ops.",
    "timm.models.",
    "timm.layers.",
)
# They trace or look up other code by name when they are used.
_REFUSED_MODULES = ("timm.models._features_fx", "torchvision.models.feature_extraction")
_HARMLESS_BASES = ("builtins", "typing", "abc", "collections")
_ENUMS = frozenset({"timm.layers.format.Format"})
_FUNCTIONS = frozenset(
    {
        "torch._C._nn.gelu",
        "torch._C._nn.silu_",
        "torch.nn.functional.elu",
        "torch.nn.functional.hardswish",
        "torch.nn.functional.leaky_relu",
        "torch.nn.functional.mish",
        "torch.nn.functional.relu",
        "torch.nn.functional.relu6",
        "torch.nn.functional.silu",
    }
)
_PARTIAL = "functools.partial"
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """The names a pickle wants, sorted into what may be had.

    Args:
        allowed: Objects by name, in the form that ``torch.serialization.safe_globals`` takes.
        modules: The allowed names that are ``nn.Module`` classes.
        enums: The allowed names that are enums.
        refused: All other names, sorted.
    """

    allowed: tuple[tuple[Callable[..., Any], str], ...]
    modules: frozenset[str]
    enums: frozenset[str]
    refused: tuple[str, ...]


def allowance_for(names: Iterable[str]) -> Allowance:
    """Sort the names that a checkpoint wants into allowed and refused."""
    allowed: list[tuple[Callable[..., Any], str]] = []
    modules: set[str] = set()
    refused: list[str] = []
    for name in sorted(set(names)):
        found = _harmless(name)
        if found is None:
            refused.append(name)
            continue
        allowed.append((found, name))
        if isinstance(found, type) and issubclass(found, nn.Module):
            modules.add(name)
    return Allowance(
        allowed=tuple(allowed),
        modules=frozenset(modules),
        enums=_ENUMS,
        refused=tuple(refused),
    )


def _harmless(name: str) -> Callable[..., Any] | None:
    if name == _PARTIAL:
        return functools.partial
    listed = name in _ENUMS or name in _FUNCTIONS
    if not listed and not (_NAME.fullmatch(name) and name.startswith(_ROOTS)):
        return None
    found = _resolve(name)
    if name in _FUNCTIONS:
        return found if callable(found) else None
    if not isinstance(found, type) or f"{found.__module__}.{found.__qualname__}" != name:
        return None
    if name in _ENUMS:
        return found if issubclass(found, enum.Enum) else None
    return found if _is_plain_module(found) else None


def _resolve(name: str) -> object:
    place, _, attribute = name.rpartition(".")
    try:
        # vars, not getattr: a module-level __getattr__ could answer for any name.
        return vars(importlib.import_module(place)).get(attribute)
    except ImportError:
        return None


def _is_plain_module(found: type) -> bool:
    return (
        issubclass(found, nn.Module)
        and found.__new__ is object.__new__
        and all(_is_known_base(base) for base in found.__mro__)
    )


def _is_known_base(base: type) -> bool:
    place = base.__module__
    if place.startswith(_REFUSED_MODULES):
        return False
    return place in _HARMLESS_BASES or f"{place}.".startswith(_ROOTS)
