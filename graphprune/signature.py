"""Signature: what a network takes, so that one on its own can be run, exported and checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphprune.errors import ModelError

_LEAF = "graphprune.input"
"""Key in a placeholder's ``meta``: its :class:`InputLeaf`; graphs copy it along with the node."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InputLeaf:
    """One input.

    Args:
        shape: Without the batch; of a tensor without dims, empty.
        dtype: As when traced; None for an input that is not a tensor.
        batch: The only batch size that the network takes; None where any will do.
        is_batched: Its first dim is the batch.
        follows_weights: It had the dtype of the weights, so it changes with them.
        values: What cannot be drawn: a tensor of integers (which ones are valid is unknown), or
            the constant that stands in the place of a tensor.
    """

    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    batch: int | None = None
    is_batched: bool = False
    follows_weights: bool = False
    values: Any = None

    def draw(self, batch: int, weights: Tensor, generator: torch.Generator) -> Any:
        """Return an input for ``batch`` samples, on the device of ``weights``."""
        if self.dtype is None:
            return self.values
        shape = (batch if self.batch is None else self.batch, *self.shape)
        shape = shape if self.is_batched else self.shape
        if not self.dtype.is_floating_point:
            return self._repeated(shape, generator).to(weights.device)
        dtype = weights.dtype if self.follows_weights else self.dtype
        return torch.randn(shape, generator=generator).to(weights.device, dtype)

    def _repeated(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if self.values is None:
            return torch.zeros(shape, dtype=self.dtype)  # token 0 exists in every vocabulary
        if not self.is_batched:
            return torch.as_tensor(self.values)
        rows = torch.randint(len(self.values), (shape[0],), generator=generator)
        return torch.as_tensor(self.values[rows])


@dataclass(frozen=True, kw_only=True)
class InputSignature:
    """All inputs of a network, in order.

    Args:
        leaves: One for each placeholder of the graph.
        structure: How the leaves make up the positional arguments.
    """

    leaves: tuple[InputLeaf, ...]
    structure: pytree.TreeSpec

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the network takes; None where any will do."""
        return next((leaf.batch for leaf in self.leaves if leaf.batch is not None), None)

    def draw(self, batch: int, *, seed: int = 0, weights: Tensor | None = None) -> tuple[Any, ...]:
        """Draw positional inputs.

        Args:
            batch: Samples; a network with a fixed batch gets that instead.
            seed: Equal seeds give equal inputs. Floats are standard normal, integers are rows of
                the inputs that the network was traced with.
            weights: A weight of the network, for the device and the dtype.
        """
        generator = torch.Generator().manual_seed(seed)
        like = torch.empty(0) if weights is None else weights
        drawn = [leaf.draw(batch, like, generator) for leaf in self.leaves]
        return tuple(pytree.tree_unflatten(drawn, self.structure))


def signature_of_inputs(inputs: tuple[Any, ...], weights: Tensor | None) -> InputSignature:
    """Describe example inputs, taken to hold for any batch."""
    leaves, structure = pytree.tree_flatten(inputs)
    return InputSignature(
        leaves=tuple(_leaf(value, value, weights) for value in leaves), structure=structure
    )


def record_signature(module: fx.GraphModule, inputs: Sequence[Any] | None) -> None:
    """Write on a graph's placeholders what they take, unless they know already.

    Args:
        module: An exported graph; its placeholders carry fake tensors as ``meta["val"]``.
        inputs: Leaves of inputs it runs on, for what is not floating point.
    """
    placeholders = list(module.graph.find_nodes(op="placeholder"))
    given = inputs if inputs is not None else [None] * len(placeholders)
    for node, value in zip(placeholders, given, strict=True):
        if "val" in node.meta and _LEAF not in node.meta:
            node.meta[_LEAF] = _leaf(node.meta["val"], value, a_weight(module))


def recorded_signature(module: fx.GraphModule) -> InputSignature:
    """Read what :func:`record_signature` wrote.

    Raises:
        ModelError: Nothing was recorded.
    """
    leaves = [node.meta.get(_LEAF) for node in module.graph.find_nodes(op="placeholder")]
    codegen = module.graph._codegen
    if None in leaves or not isinstance(codegen, fx.graph._PyTreeCodeGen):
        raise ModelError(
            f"this {type(module).__name__} does not know what inputs it takes",
            hint="pass example_inputs",
        )
    positional = codegen.pytree_info.in_spec.child(0)
    return InputSignature(leaves=tuple(leaves), structure=positional)


def a_weight(module: nn.Module) -> Tensor | None:
    """Return the first floating-point parameter or buffer; it stands for the others' device."""
    return next((tensor for tensor in _tensors(module) if tensor.is_floating_point()), None)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _leaf(traced: Any, value: Any, weights: Tensor | None) -> InputLeaf:
    if not isinstance(traced, Tensor):
        return InputLeaf(values=traced)
    is_floating = traced.is_floating_point()
    first = traced.shape[0] if traced.dim() else None
    return InputLeaf(
        shape=tuple(int(size) for size in traced.shape[1:]),
        dtype=traced.dtype,
        batch=first if isinstance(first, int) and traced is not value else None,
        is_batched=traced.dim() > 0,
        follows_weights=is_floating and weights is not None and traced.dtype == weights.dtype,
        values=None if is_floating or value is None else value.detach().cpu(),
    )
