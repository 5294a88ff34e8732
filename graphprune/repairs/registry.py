"""The registry of repair methods, and the care that is the same for all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.data import CalibrationBatches
from graphprune.errors import DataError, OptionError, SurgeryError
from graphprune.surgery import PrunedModel
from graphprune.tracing import named_tensors


@dataclass(frozen=True, kw_only=True)
class RepairJob:
    """What a method gets.

    Args:
        model: A copy of the pruned network in evaluation mode, whose weights the method refits in
            place.
        data: Calibration images, in the network's dtype and on its device.
    """

    model: PrunedModel
    data: CalibrationBatches


@dataclass(frozen=True, kw_only=True)
class RepairResult:
    """A repaired network.

    Args:
        model: A network of its own, in evaluation mode.
        method: What repaired it.
        changed: Parameters and buffers that differ from before, by every name of a shared one.
        notes: What the user should know.
    """

    model: PrunedModel
    method: str
    changed: tuple[str, ...]
    notes: tuple[str, ...]


Method = Callable[[RepairJob], tuple[str, ...]]
"""Refits ``job.model`` in place and returns notes."""


@dataclass(frozen=True, slots=True)
class _Entry:
    run: Method
    needs_data: bool


_METHODS: dict[str, _Entry] = {}


def register(name: str, *, needs_data: bool = True) -> Callable[[Method], Method]:
    """Register a repair method.

    Args:
        name: What users call it.
        needs_data: Whether it looks at calibration images.

    Raises:
        ValueError: There is a method of that name.
    """

    def add(method: Method) -> Method:
        if name in _METHODS:
            raise ValueError(f"there are two repair methods named {name!r}")
        _METHODS[name] = _Entry(method, needs_data)
        return method

    return add


def available() -> tuple[str, ...]:
    """Return the names of all methods."""
    return tuple(sorted(_METHODS))


def repair(
    pruned: PrunedModel, data: CalibrationBatches | None, method: str = "batchnorm"
) -> RepairResult:
    """Refit a pruned network's weights; shapes, names and structure stay.

    Args:
        pruned: The network; it is not changed.
        data: Calibration images; None for methods that need none.
        method: One of :func:`available`.

    Raises:
        OptionError: There is no such method.
        DataError: The method needs images and there are none.
        SurgeryError: The images make a weight NaN or infinite.
    """
    entry = _entry(method)
    model = copy.deepcopy(pruned).eval()
    before = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    notes: tuple[str, ...] = ()
    if entry.needs_data:
        if data is None:
            raise DataError(
                f"repair {method!r} needs calibration images", hint="pass data, or method='none'"
            )
        with torch.no_grad():
            notes = entry.run(RepairJob(model=model, data=_fitting(data, model)))
    changed = _changed(before, named_tensors(model))
    _require_finite(model, changed, method)
    return RepairResult(model=model, method=method, changed=changed, notes=notes)


def _entry(method: str) -> _Entry:
    if method not in _METHODS:
        raise OptionError(f"repair {method!r} is none of {', '.join(available())}")
    return _METHODS[method]


def _fitting(data: CalibrationBatches, model: PrunedModel) -> CalibrationBatches:
    weight = next(model.parameters(), None)
    return data if weight is None else data.to(dtype=weight.dtype, device=weight.device)


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> tuple[str, ...]:
    return tuple(name for name in before if not torch.equal(before[name], after[name]))


def _require_finite(model: PrunedModel, changed: tuple[str, ...], method: str) -> None:
    tensors = named_tensors(model)
    broken = [name for name in changed if not bool(torch.isfinite(tensors[name]).all())]
    if broken:
        raise SurgeryError(
            f"repair {method!r} would make {broken[0]} NaN or infinite",
            hint="the network overflows on these images: check their --mean and --std, or use "
            "--repair none",
        )
