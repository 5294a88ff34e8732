"""Reading: a forward of the unpruned network that keeps what the consumers of units read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphprune.data import CalibrationBatches
from graphprune.game.evaluation import filled_up, passes_of
from graphprune.graph import DependencyGraph
from graphprune.groups import UnitIds

Elementwise = Callable[[Tensor], Tensor]


class ActivationReader:
    """Sums what an element-wise function makes of activations into the units that they belong to.

    An activation that several layers read is one activation.

    Args:
        graph: The network.
        data: Calibration images.
        device: Where the network is run.
    """

    def __init__(self, graph: DependencyGraph, data: CalibrationBatches, device: str) -> None:
        self._graph = graph
        self._data = data.rebatched(passes_of(graph)).to(device=device)
        module = graph.program.module
        on_device = module if device == "cpu" else copy.deepcopy(module).to(device)
        self._units = _units_read(graph)
        self._reader = _Reader(on_device, frozenset(self._units))
        self.sums = np.zeros(graph.n_units)
        self.weights = np.zeros(graph.n_units)

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self._data.batches)

    def labels(self, index: int) -> Tensor | None:
        """Return the labels of a batch, if there are any."""
        return self._data.batches[index].labels

    def filled(self, index: int) -> float:
        """Return which share of a batch's pass copies of its first image fill, see `filled_up`."""
        first = self._data.batches[index].inputs[0]
        return 1 - len(first) / len(filled_up(self._graph, first))

    def run(
        self, index: int, *, differentiable: bool = False, first_only: bool = False
    ) -> list[Any]:
        """Run a batch and return the flat outputs, of its own images only.

        Args:
            index: Number of the batch.
            differentiable: Activations that are read get a gradient in a backward pass.
            first_only: Run as many copies of its first image.
        """
        batch = self._data.batches[index]
        self._reader.differentiable = differentiable
        inputs = [filled_up(self._graph, x) for x in batch.inputs]
        if first_only:
            inputs = [x[:1].expand(x.shape).contiguous() for x in inputs]
        outputs = pytree.tree_leaves(self._reader.run(*inputs))
        return [x[: batch.n_images] if isinstance(x, Tensor) and x.dim() else x for x in outputs]

    def add(self, function: Elementwise, *, times: float = 1.0) -> None:
        """Add up, unit by unit, what ``function`` makes of the activations of the last pass.

        Args:
            function: Activation -> what to add up, of its shape.
            times: A factor of it, and of the number of entries added up (in ``weights``).
        """
        for name, by_dim in self._units.items():
            read = self._reader.read[name]
            for dim, units in by_dim.items():
                _add_at(self.sums, units, function(read).detach() * times, dim)
                np.add.at(self.weights, units[units >= 0], times * read.numel() / read.shape[dim])


class _Reader(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, sources: frozenset[str]) -> None:
        super().__init__(module)
        self._sources = sources
        self.differentiable = False
        self.read: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name not in self._sources:
            return result
        if self.differentiable:
            # Frozen networks have no gradients of their own.
            result = result + torch.zeros((), dtype=result.dtype, requires_grad=True).to(result)
            result.retain_grad()
        self.read[n.name] = result
        return result


def _units_read(graph: DependencyGraph) -> Mapping[str, Mapping[int, UnitIds]]:
    """Return, by node and dim, the units of activations that some op adds up."""
    found: dict[str, dict[int, UnitIds]] = {}
    for gate, units in graph.gates():
        source = graph.input_node(gate.op, gate.path)
        value = graph.analysis.values[source.name, None]
        if not value.constant:
            found.setdefault(source.name, {})[gate.dim % value.rank] = units
    return found


def _add_at(sums: np.ndarray[Any, Any], units: UnitIds, amounts: Tensor, dim: int) -> None:
    others = [k for k in range(amounts.dim()) if k != dim]
    along = amounts.double().sum(others).cpu().numpy() if others else amounts.double().cpu().numpy()
    np.add.at(sums, units[units >= 0], along[units >= 0])
