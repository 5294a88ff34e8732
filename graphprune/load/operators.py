"""Which functions the nodes of an exported program may call."""

from __future__ import annotations

import importlib
import re
from contextlib import suppress
from functools import cache

import torch

_OVERLOAD = re.compile(r"torch\.ops\.(aten|torchvision)\.(\w+)\.(\w+)", re.ASCII)
# Reads or creates a file of any name.
_REFUSED = frozenset({"from_file"})
_SCALAR = frozenset(
    [
        f"_operator.{name}"
        for name in [
            "add",
            "sub",
            "mul",
            "floordiv",
            "truediv",
            "mod",
            "neg",
            "pos",
            "abs",
            "getitem",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "and_",
            "or_",
            "not_",
            "inv",
        ]
    ]
    + [f"math.{name}" for name in ["ceil", "floor", "trunc", "sqrt"]]
    + [
        f"torch.{name}"
        for name in ["sym_int", "sym_float", "sym_max", "sym_min", "sym_not", "sym_ite", "sym_sum"]
    ]
)


def is_known_operator(target: str) -> bool:
    """Whether a node's target is an ATen or torchvision operator, or arithmetic on sizes.

    torch resolves targets attribute by attribute, so anything reachable from ``torch`` could be
    named; and ``torch.ops.aten`` also answers for TorchScript's built-ins, some of which touch
    files. Only operators that the dispatcher knows pass.
    """
    if target in _SCALAR:
        return True
    match = _OVERLOAD.fullmatch(target)
    if match is None:
        return False
    namespace, name, overload = match.groups()
    full = f"{namespace}::{name}" + ("" if overload == "default" else f".{overload}")
    return name not in _REFUSED and full in _dispatched(namespace)


@cache
def _dispatched(namespace: str) -> frozenset[str]:
    if namespace == "torchvision":
        with suppress(ImportError):
            importlib.import_module("torchvision")
    return frozenset(torch._C._dispatch_get_all_op_names())
