"""Watching readers: run a gated network, refitted or not, and keep what readers read and make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.columns import LinearLayer, linear_layers
from graphprune.game.masking import apply_gate
from graphprune.game.readers import Reader


@dataclass(frozen=True)
class Refitted:
    """What a refitted layer computes with.

    Args:
        weight: In place of its weight, as the op takes it.
        shift: Added to what it makes, (output channels,).
    """

    weight: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Watched:
    """What a reader did in one pass.

    Args:
        x: What it read, gates applied; without gradient.
        y: What it made; part of the autograd graph where gradients are on.
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Pass:
    """One pass of a watched network.

    Args:
        outputs: The network's flat outputs.
        watched: By reader.
    """

    outputs: Sequence[Any]
    watched: Mapping[str, Watched]


class WatchedNetwork:
    """A gated network whose readers are watched, and may compute with other weights.

    Gates in front of readers pass no gradient, so that a gate's derivative is that of what its unit
    does elsewhere; what it does to readers follows from what these read and make.

    Args:
        gated: The network.
        readers: The layers to watch.
    """

    def __init__(self, gated: fx.GraphModule, readers: Sequence[Reader]) -> None:
        self._gated = gated
        every = linear_layers(gated)
        self.layers: Mapping[str, LinearLayer] = {
            reader.layer.node: every[reader.layer.node] for reader in readers
        }
        self._in_front = frozenset(
            gate.name
            for node in gated.graph.nodes
            if node.name in self.layers
            for gate in _gates_before(node, self.layers[node.name])
        )

    def weight(self, name: str) -> Tensor:
        """Return a reader's own weight; batch norms are folded into it."""
        return self._gated.get_parameter(self.layers[name].weight)

    def run(
        self,
        gates: Tensor,
        inputs: Sequence[Tensor],
        refitted: Mapping[str, Refitted] | None = None,
    ) -> Pass:
        """Run the network.

        Args:
            gates: Of all units.
            inputs: The network's flat inputs.
            refitted: By reader; those not named compute with their own weights.
        """
        walk = _Walk(self._gated, self.layers, self._in_front, refitted or {})
        outputs = walk.run(gates, *inputs)
        return Pass(outputs, walk.watched)


def _gates_before(reader: fx.Node, layer: LinearLayer) -> Iterator[fx.Node]:
    """Yield the gates that a reader's input passes last."""
    node = next(given for given in reader.all_input_nodes if given.name == layer.source)
    while node.target is apply_gate:
        yield node
        node = node.all_input_nodes[0]


class _Walk(fx.Interpreter):
    def __init__(
        self,
        module: fx.GraphModule,
        layers: Mapping[str, LinearLayer],
        in_front: frozenset[str],
        refitted: Mapping[str, Refitted],
    ) -> None:
        super().__init__(module)
        self._layers = layers
        self._in_front = in_front
        self._refitted = refitted
        self.watched: dict[str, Watched] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        if n.name in self._in_front:
            (x, gate), _ = self.fetch_args_kwargs_from_env(n)
            return apply_gate(x, gate.detach())
        layer = self._layers.get(n.name)
        return super().run_node(n) if layer is None else self._watch(n, layer)

    def _watch(self, node: fx.Node, layer: LinearLayer) -> Tensor:
        read = {given.name: given for given in node.all_input_nodes}
        x, refitted = self.env[read[layer.source]], self._refitted.get(node.name)
        if refitted is None:
            y: Tensor = super().run_node(node)
        else:
            (weight,) = (given for given in read.values() if given.target == layer.weight)
            self.env[weight] = refitted.weight
            y = super().run_node(node)
            along = y.dim() + 1 - refitted.weight.dim()
            laid = [-1 if dim == along else 1 for dim in range(y.dim())]
            y = y + refitted.shift.reshape(laid)
        if torch.is_grad_enabled() and not y.requires_grad:
            y.requires_grad_()
        self.watched[node.name] = Watched(x.detach(), y)
        return y
