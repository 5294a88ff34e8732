"""Cases: the inputs on which the forms of a network are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphprune.data import Batch, CalibrationBatches, check_against
from graphprune.signature import InputSignature, a_weight, signature_of_inputs
from graphprune.surgery import PrunedModel
from graphprune.verify.declared import DeclaredInput
from graphprune.verify.tolerances import Tolerance

_SIZES: tuple[Callable[[int], int], ...] = (
    lambda size: size // 2 | 1,
    lambda size: size + 1 | 1,
    lambda size: size + 32,
)
"""Other sizes of an open dim than the one that the network was traced with."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How thoroughly, and how strictly.

    Args:
        batches: Batch sizes; a network with a fixed batch is run on that alone.
        seeds: One set of random inputs each, for every batch size.
        rtol: Largest relative error of onnxruntime; by default the dtype's own.
        atol: Absolute error that passes besides.
        tolerances: Those of single outputs and dtypes, which go before.
        max_images: How many images of real data are run.
    """

    batches: tuple[int, ...] = (1, 2, 5)
    seeds: tuple[int, ...] = (0, 1)
    rtol: float | None = None
    atol: float = 0.0
    tolerances: tuple[Tolerance, ...] = ()
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
        declared: What the file says of its inputs.
    """

    signature: InputSignature
    weight: Tensor | None
    settings: Settings
    declared: tuple[DeclaredInput, ...] = ()

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

    def other_sizes(self) -> dict[str, list[Case]]:
        """Return, for every open dim of the file beside the batch, inputs of other sizes.

        Two of three are odd: what halves a size rounds there.
        """
        batches = {value.sizes[0] for value in self.declared if value.sizes}
        inner = {size for value in self.declared for size in value.sizes[1:]}
        symbols = [size for size in inner - batches if isinstance(size, str)]
        return {
            symbol: [self._resized(symbol, how) for how in _SIZES] for symbol in sorted(symbols)
        }

    def _resized(self, symbol: str, how: Callable[[int], int]) -> Case:
        leaves, structure = pytree.tree_flatten(self._draw(2, self.settings.seeds[0]))
        size = 0
        for place, value in enumerate(self.declared[: len(leaves)]):
            for dim, open_dim in enumerate(value.sizes):
                if open_dim == symbol and dim:
                    size = how(leaves[place].shape[dim])
                    entries = torch.arange(size) % leaves[place].shape[dim]
                    leaves[place] = leaves[place].index_select(dim, entries)
        inputs = tuple(pytree.tree_unflatten(leaves, structure))
        return Case(name=f"{symbol} {size}", inputs=inputs)

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


def cases_for(
    network: nn.Module,
    declared: Sequence[DeclaredInput],
    settings: Settings,
    example_inputs: tuple[Any, ...] | None = None,
) -> Cases:
    """Return the cases of a network.

    Args:
        network: A pruned network knows what it takes.
        declared: What the file says of its inputs.
        settings: Batches, seeds and images.
        example_inputs: Inputs of a network that does not know them; without any, those are made
            that the file declares.

    Raises:
        ModelError: Nobody knows the inputs.
    """
    weight = a_weight(network)
    if isinstance(network, PrunedModel):
        signature = network.signature
    else:
        examples = example_inputs or tuple(value.example() for value in declared)
        signature = _with_batch_of(declared, signature_of_inputs(examples, weight))
    return Cases(signature=signature, weight=weight, settings=settings, declared=tuple(declared))


def _with_batch_of(declared: Sequence[DeclaredInput], signature: InputSignature) -> InputSignature:
    """Fix the batch where the file does: a network of any batch may be exported for one."""
    if len(declared) != len(signature.leaves):
        return signature
    return replace(
        signature,
        leaves=tuple(
            replace(leaf, batch=value.fixed_batch) if leaf.is_batched else leaf
            for leaf, value in zip(signature.leaves, declared, strict=True)
        ),
    )


def tensors_of(tree: Any) -> list[Tensor]:
    """Return all tensors of inputs or outputs, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
