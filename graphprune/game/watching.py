"""Watching readers: run a gated network and keep what readers read and make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.columns import LinearLayer, linear_layers
from graphprune.game.readers import Reader


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
    """A gated network whose readers are watched.

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

    def weight(self, name: str) -> Tensor:
        """Return a reader's own weight; batch norms are folded into it."""
        return self._gated.get_parameter(self.layers[name].weight)

    def run(self, gates: Tensor, inputs: Sequence[Tensor]) -> Pass:
        """Run the network.

        Args:
            gates: Of all units.
            inputs: The network's flat inputs.
        """
        walk = _Walk(self._gated, self.layers)
        outputs = walk.run(gates, *inputs)
        return Pass(outputs, walk.watched)


class _Walk(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, layers: Mapping[str, LinearLayer]) -> None:
        super().__init__(module)
        self._layers = layers
        self.watched: dict[str, Watched] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        made = super().run_node(n)
        layer = self._layers.get(n.name)
        if layer is not None:
            read = {given.name: given for given in n.all_input_nodes}
            if torch.is_grad_enabled() and not made.requires_grad:
                made.requires_grad_()
            self.watched[n.name] = Watched(self.env[read[layer.source]].detach(), made)
        return made
