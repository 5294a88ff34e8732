"""Masked evaluation: performances and gate gradients of coalitions, on all calibration images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from graphprune.analysis import result_shapes
from graphprune.data import Batch, CalibrationBatches
from graphprune.game.masking import GATES, gated_module, unit_gates
from graphprune.game.value import Performance, class_logits, log_likelihood, sample_predictions
from graphprune.graph import DependencyGraph

MEMORY = 1 << 30
"""Bytes that the activations of one differentiated pass may take."""

MAX_BATCH = 64
"""Images in one pass; more are not faster on CPUs."""


@dataclass(frozen=True)
class SplitNetwork:
    """A gated network cut in two: what no coalition changes, and the rest.

    Args:
        prefix: Flat inputs -> tensors at the border; run once per batch.
        suffix: Gates and the tensors at the border -> flat outputs.
    """

    prefix: fx.GraphModule
    suffix: fx.GraphModule


class Evaluator:
    """Runs coalitions of one network on fixed calibration data.

    Args:
        graph: The network.
        data: Calibration images; they are cut into batches that fit the memory.
        units: The units that may be absent, (n_units,) Bool; all by default.
        device: Where the network is run.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        data: CalibrationBatches,
        units: npt.NDArray[np.bool_] | None = None,
        device: str = "cpu",
    ) -> None:
        self.graph = graph
        self.data = data.rebatched(passes_of(graph)).to(device=device)
        self._device = device
        self._gated = gated_module(graph, units).to(device)
        self._split = split_at_gates(self._gated)
        self._references: dict[int, Tensor] = {}

    @property
    def n_images(self) -> int:
        """Number of calibration images."""
        return self.data.n_images

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches in which images are run."""
        return self.data.batches

    def values(self, coalitions: Tensor, performance: Performance) -> Tensor:
        """Return per-image performances.

        Args:
            coalitions: (n_coalitions, n_units) Bool, True = kept.
            performance: What outputs are worth.

        Returns:
            (n_coalitions, n_images) float64.
        """
        if not len(coalitions):
            return torch.zeros(0, self.n_images, dtype=torch.float64)
        columns = []
        with torch.inference_mode():
            for index, batch in enumerate(self.batches):
                reference = self.reference(index)
                border = self._split.prefix(*batch.inputs)
                rows = [
                    performance(
                        class_logits(self._split.suffix(self._gates(kept), *border)),
                        reference,
                        batch.labels,
                    )
                    for kept in coalitions
                ]
                columns.append(torch.stack(rows).double().cpu())
        return torch.cat(columns, 1)

    def reference(self, index: int) -> Tensor:
        """Return the unpruned network's logits on a batch, (images, positions, classes)."""
        if index not in self._references:
            gates = self._gates(torch.ones(self.graph.n_units))
            with torch.inference_mode():
                outputs = self._gated(gates, *self.batches[index].inputs)
            self._references[index] = class_logits(outputs).clone()
        return self._references[index]

    def _gates(self, coalitions: Tensor) -> Tensor:
        return unit_gates(coalitions).to(self._device)

    def gradients(
        self,
        index: int,
        coalitions: Tensor,
        performance: Performance,
        generator: torch.Generator,
        n_draws: int,
    ) -> GateGradients:
        """Differentiate with respect to every unit's gate, image by image.

        Args:
            index: Number of the batch.
            coalitions: (images, n_units) Bool: each image has a coalition of its own.
            performance: What outputs are worth.
            generator: Draws predictions of the unpruned network for the Fisher term.
            n_draws: How many predictions to draw per image.
        """
        batch = self.batches[index]
        # A clone outside inference mode: autograd may save it.
        reference = self.reference(index).clone()
        gates = self._gates(coalitions).requires_grad_()
        logits = class_logits(self._gated(gates, *batch.inputs))
        worth = performance(logits, reference, batch.labels).sum()
        (slope,) = torch.autograd.grad(worth, gates, retain_graph=n_draws > 0)
        squares, score = torch.zeros_like(slope), torch.zeros_like(slope)
        for draw in range(n_draws):
            drawn = sample_predictions(reference, generator)
            likelihood = log_likelihood(logits, drawn).sum()
            last = draw == n_draws - 1
            (score,) = torch.autograd.grad(likelihood, gates, retain_graph=not last)
            squares += score.square() / n_draws
        return GateGradients(*(found[:, :-1].detach().cpu() for found in (slope, squares, score)))


@dataclass(frozen=True)
class GateGradients:
    """Derivatives with respect to gates, per image.

    Args:
        slope: Of the performance, (images, n_units).
        squares: Mean squared derivative of the log-likelihood of predictions drawn from the
            unpruned network (the diagonal of the Fisher information), (images, n_units).
        score: Derivative of the log-likelihood of the last prediction drawn, (images, n_units).
    """

    slope: Tensor
    squares: Tensor
    score: Tensor


def passes_of(graph: DependencyGraph) -> int:
    """Return how many images one differentiated pass may hold."""
    per_image = 0
    for node in graph.program.module.graph.nodes:
        shapes = result_shapes(node) if node.op == "call_function" else None
        per_image += sum(int(np.prod(shape)) for shape in shapes or ())
    # Four bytes a float; the gate's product is a second copy of what enters a layer.
    bytes_per_image = max(8 * per_image // graph.batch_size, 1)
    return int(np.clip(MEMORY // bytes_per_image, 1, MAX_BATCH))


def split_at_gates(gated: fx.GraphModule) -> SplitNetwork:
    """Cut a gated network where its gates begin to matter."""
    depends = _depends_on_gates(gated.graph)
    nodes = list(gated.graph.nodes)
    border = [
        node
        for node in nodes
        if node not in depends
        and node.op != "get_attr"
        and any(user in depends for user in node.users)
    ]
    return SplitNetwork(_prefix(gated, border), _suffix(gated, border, depends))


def _depends_on_gates(graph: fx.Graph) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.target == GATES or node.op == "output" or found & set(node.all_input_nodes):
            found.add(node)
    return found


def _prefix(gated: fx.GraphModule, border: list[fx.Node]) -> fx.GraphModule:
    graph, copied = fx.Graph(), {}
    for node in _needed_for(border, gated.graph):
        copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(tuple(copied[node] for node in border))
    graph.eliminate_dead_code(lambda node: node.op != "placeholder")
    return fx.GraphModule(gated, graph, "Prefix")


def _needed_for(border: list[fx.Node], graph: fx.Graph) -> Iterator[fx.Node]:
    needed = set(border)
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    for node in graph.nodes:
        if node in needed or (node.op == "placeholder" and node.target != GATES):
            yield node


def _suffix(
    gated: fx.GraphModule, border: list[fx.Node], depends: set[fx.Node]
) -> fx.GraphModule:
    graph, copied = fx.Graph(), {}
    for node in gated.graph.nodes:
        if node.target == GATES:
            copied[node] = graph.placeholder(GATES)
    for place, node in enumerate(border):
        copied[node] = graph.placeholder(f"border_{place}")
    for node in gated.graph.nodes:
        if node in copied:
            continue
        if node in depends or node.op == "get_attr":
            copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.eliminate_dead_code(lambda node: node.op not in ("placeholder", "output"))
    return fx.GraphModule(gated, graph, "Suffix")
