"""Cases: the inputs on which the forms of a network are compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphprune.data import Batch, CalibrationBatches, check_against
from graphprune.errors import ModelError
from graphprune.signature import InputSignature, a_weight, signature_of_inputs
from graphprune.surgery import PrunedModel


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How thoroughly, and how strictly.

    Args:
        batches: Batch sizes; a network with a fixed batch is run on that alone.
        seeds: One set of random inputs each, for every batch size.
        rtol: Largest relative error of onnxruntime; by default the dtype's own.
        atol: Absolute error that passes besides; counts only with ``rtol``.
        max_images: How many images of real data are run.
    """

    batches: tuple[int, ...] = (1, 2, 5)
    seeds: tuple[int, ...] = (0, 1)
    rtol: float | None = None
    atol: float = 0.0
    max_images: int = 256


@dataclass(frozen=True, kw_only=True)
class Case:
    """One set of inputs.

    Args:
        name: Batch size and seed, or which real batch.
        inputs: Positional inputs.
        labels: Of real images, where known.
    """

    name: str
    inputs: tuple[Any, ...]
    labels: Tensor | None = None

    @property
    def batch(self) -> int:
        """How many samples the inputs hold."""
        return max(len(leaf) for leaf in tensors_of(self.inputs) if leaf.dim())


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Where inputs come from.

    Args:
        signature: What the network takes.
        weight: One of its weights, for dtype and device.
        settings: Batches, seeds and images.
    """

    signature: InputSignature
    weight: Tensor | None
    settings: Settings

    @property
    def leaves(self) -> list[Tensor]:
        """One flat set of inputs."""
        return tensors_of(self._draw(2, 0))

    def random(self) -> list[Case]:
        """Return random inputs: every batch size with every seed."""
        fixed = self.signature.fixed_batch
        return [
            Case(name=f"batch {batch}, seed {seed}", inputs=self._draw(batch, seed))
            for batch in (self.settings.batches if fixed is None else (fixed,))
            for seed in self.settings.seeds
        ]

    def some(self) -> list[Case]:
        """Return one case for each batch size, each with another seed, for costly checks."""
        seeds = len(self.settings.seeds)
        return [
            case
            for place, case in enumerate(self.random())
            if place % seeds == (place // seeds) % seeds
        ]

    def real(self, data: CalibrationBatches) -> list[Case]:
        """Return real images, in batches that the network takes.

        Raises:
            DataError: They do not fit the network's inputs.
        """
        check_against(data, None, tuple(tuple(leaf.shape[1:]) for leaf in self.leaves))
        return [
            Case(
                name=f"real batch {place}",
                inputs=tuple(pytree.tree_unflatten(batch.inputs, self.signature.structure)),
                labels=batch.labels,
            )
            for place, batch in enumerate(self._fitting(data))
        ]

    def _fitting(self, data: CalibrationBatches) -> Iterator[Batch]:
        like = torch.empty(0) if self.weight is None else self.weight
        some = data.head(self.settings.max_images).to(dtype=like.dtype, device=like.device)
        fixed = self.signature.fixed_batch
        if fixed is None:
            yield from some
        else:
            yield from (batch for batch in some.rebatched(fixed) if batch.n_images == fixed)

    def _draw(self, batch: int, seed: int) -> tuple[Any, ...]:
        return self.signature.draw(batch, seed=seed, weights=self.weight)


def cases_for(pruned: nn.Module, file: onnx.ModelProto, settings: Settings) -> Cases:
    """Return the cases of a network; one that does not know its inputs takes those of its file.

    Raises:
        ModelError: Neither knows them.
    """
    if isinstance(pruned, PrunedModel):
        signature = pruned.signature
    else:
        examples = tuple(_example(value) for value in file.graph.input)
        signature = signature_of_inputs(examples, None)
    return Cases(signature=signature, weight=a_weight(pruned), settings=settings)


def tensors_of(tree: Any) -> list[Tensor]:
    """Return all tensors of inputs or outputs, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _example(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    if any(not dim.dim_value for dim in kind.shape.dim[1:]):
        raise ModelError(
            f"{value.name} has a dim of any size beside the batch", hint="give a pruned network"
        )
    sizes = [2, *(dim.dim_value for dim in kind.shape.dim[1:])][: len(kind.shape.dim)]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return torch.zeros(sizes, dtype=getattr(torch, dtype.name))
