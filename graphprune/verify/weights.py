"""Whether two networks hold the same parameters and buffers."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from graphprune.tracing import named_tensors
from graphprune.verify.report import Check

_LISTED = 3


def same_weights(
    reference: nn.Module,
    other: nn.Module,
    *,
    changed: Collection[str] = (),
    name: str = "same weights",
) -> Check:
    """Check that two networks have the same tensors: names, dtypes, shapes, ties and values.

    Args:
        reference: The network that is right by definition.
        other: The network under test.
        changed: Names of tensors whose values may differ, because a repair refitted them.
        name: Of the check.
    """
    ours, theirs = named_tensors(reference), named_tensors(other)
    faults = [f"no {key}" for key in ours if key not in theirs]
    faults += [f"{key} is new" for key in theirs if key not in ours]
    for key in ours.keys() & theirs.keys():
        fault = _difference(ours[key], theirs[key], values=key not in changed)
        if fault:
            faults.append(f"{key} {fault}")
    if not faults and _ties(ours) != _ties(theirs):
        faults.append("other tensors are tied")
    detail = (
        f"{len(ours)} tensors, {len(changed)} of them repaired"
        if changed
        else (f"{len(ours)} tensors")
    )
    if faults:
        detail = f"{len(faults)} differ: {', '.join(sorted(faults)[:_LISTED])}"
    return Check(name=name, ok=not faults, detail=detail)


def _difference(ours: Tensor, theirs: Tensor, *, values: bool) -> str:
    if ours.shape != theirs.shape:
        return f"is {tuple(theirs.shape)} instead of {tuple(ours.shape)}"
    if ours.dtype != theirs.dtype:
        return f"is {theirs.dtype} instead of {ours.dtype}"
    if ours.requires_grad != theirs.requires_grad:
        return "is trainable in one only"
    if values and not torch.equal(ours.detach().cpu(), theirs.detach().cpu()):
        return "has other values"
    return ""


def _ties(tensors: dict[str, Tensor]) -> dict[str, str]:
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in sorted(tensors.items())}
