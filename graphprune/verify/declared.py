"""What an ONNX file declares of its inputs and outputs, and whether it keeps to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor

from graphprune.errors import ModelError
from graphprune.verify.contents import inputs_of
from graphprune.verify.report import Check

Size = int | str
"""A fixed size, or the name of one that is open."""


@dataclass(frozen=True, kw_only=True)
class DeclaredInput:
    """An input, as a file declares it.

    Args:
        name: Of the input.
        dtype: Of the input.
        sizes: The batch first.
    """

    name: str
    dtype: torch.dtype
    sizes: tuple[Size, ...]

    @property
    def fixed_batch(self) -> int | None:
        """The only batch that the file takes; None where any will do."""
        return self.sizes[0] if self.sizes and isinstance(self.sizes[0], int) else None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Sizes without the batch; None where some are open."""
        fixed = tuple(size for size in self.sizes[1:] if isinstance(size, int))
        return fixed if len(fixed) == len(self.sizes[1:]) else None

    def example(self) -> Tensor:
        """Return zeros of these sizes.

        Raises:
            ModelError: Some are open.
        """
        if self.shape is None:
            raise ModelError(
                f"{self.name} has a dim of any size beside the batch",
                hint="give a pruned network, or example inputs",
            )
        return torch.zeros(
            [self.fixed_batch or 2, *self.shape][: len(self.sizes)], dtype=self.dtype
        )


def declared_inputs(model: onnx.ModelProto) -> tuple[DeclaredInput, ...]:
    """Return the inputs that a file declares.

    Raises:
        ModelError: One is of a type that torch does not have.
    """
    return tuple(
        DeclaredInput(name=value.name, dtype=_dtype(value), sizes=_sizes(value))
        for value in inputs_of(model)
    )


def check_declared(
    model: onnx.ModelProto, runs: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]]
) -> Check:
    """Check that outputs have the sizes that the file declares, open dims as in the inputs.

    Args:
        model: The file.
        runs: Flat inputs and outputs of some runs.
    """
    name, given = "declared sizes", [_sizes(value) for value in inputs_of(model)]
    for inputs, outputs in runs:
        known = _bound(given, inputs)
        for value, output in zip(model.graph.output, outputs, strict=True):
            expected = tuple(known.get(size, size) for size in _sizes(value))
            if not _agree(expected, tuple(output.shape)):
                shapes = f"{tuple(output.shape)}, declared {_sizes(value)}"
                return Check(name=name, ok=False, detail=f"{value.name} is {shapes}")
    return Check(name=name, ok=True, detail=f"outputs have them in {len(runs)} runs")


def _bound(given: Sequence[tuple[Size, ...]], inputs: Sequence[Tensor]) -> dict[Size, Size]:
    """Return what every name of an open dim stands for in one run."""
    return {
        name: size
        for sizes, value in zip(given, inputs, strict=True)
        for name, size in zip(sizes, value.shape, strict=False)  # a file may declare no shape
        if isinstance(name, str)
    }


def _agree(expected: tuple[Size, ...], found: tuple[int, ...]) -> bool:
    # A file may declare no shape at all; names that no input has are sizes computed on the way.
    return not expected or (
        len(expected) == len(found)
        and all(isinstance(a, str) or a == b for a, b in zip(expected, found, strict=True))
    )


def _sizes(value: onnx.ValueInfoProto) -> tuple[Size, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{place}"
        for place, dim in enumerate(dims)
    )


def _dtype(value: onnx.ValueInfoProto) -> torch.dtype:
    kind = value.type.tensor_type.elem_type
    dtype = getattr(torch, onnx.helper.tensor_dtype_to_np_dtype(kind).name, None) if kind else None
    if not isinstance(dtype, torch.dtype):
        raise ModelError(
            f"the file's input {value.name} is no tensor of numbers",
            hint="export a network that takes tensors",
        )
    return dtype
