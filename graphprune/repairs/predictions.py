"""Predictions: the last layer fitted to what the network predicts.

Least squares on logits takes an error in a class that is out of the question for as bad as one that
decides. What counts is the divergence of the predictions, and that is convex in the last layer.
So that layer, refitted by least squares, is moved once more, by D in its weights and e in its bias:

    minimise  sum over predictions  KL(p || softmax(z(D, e)))  +  (|e|^2 + n m |D|^2) / 2 v

where p is what the unpruned network predicts, n the number of columns and m the mean square of
what they hold: a Gaussian prior by which the bias moves a logit with variance v, and so do the
weights. Its variance is the mean divergence before the fit: predictions that are nearly right move
little, and few images move them little. The fit is kept unless the divergence on held-out images
rises by more than a standard error: they are few, and the prior has been there before them.

References:
    Hinton, Vinyals and Dean (2015), arXiv 1503.02531 (predictions as targets).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphprune.columns import LinearLayer
from graphprune.game.evaluation import place_of_predictions
from graphprune.game.value import class_dim, class_logits, minus_kl
from graphprune.graph import DependencyGraph
from graphprune.repairs.lockstep import Lookup, evaluated
from graphprune.repairs.targets import ShapeOf, Target, affine_path, followed, only_user

_LEAST = 1e-30

MOST_STEPS = 50
"""Steps of the quasi-Newton method; the divergence hardly falls after that."""

_HISTORY = 5
"""Steps that it remembers."""

_COPIES = 2 * _HISTORY + 6
"""Tensors of the weight's size that it holds; a batch's graph holds fewer of the logits' size."""

_SINGLE = 4
"""Bytes of a number; what is stored in fewer is not fitted."""

ALWAYS_ALLOWED = 1 << 28
"""Bytes that it may take, however small the network is; else half of what the network takes."""


def readout_of(layer: fx.Node, graph: DependencyGraph, shape_of: ShapeOf) -> Target | None:
    """Return the way from a layer to the predictions; None if they are not affine in its output.

    Args:
        layer: The node, in the pruned network.
        graph: The unpruned network.
        shape_of: Shapes in it, by node.
    """
    place = place_of_predictions(graph)
    path = affine_path(layer, shape_of)
    end = path[-1] if path else layer
    reader = only_user(end)
    if place is None or reader is None or reader.op != "output":
        return None
    if graph.outputs[place].node != end.name or _n_classes(graph, end) < _FEWEST_CLASSES:
        return None
    return Target(layer, path, end)


def _n_classes(graph: DependencyGraph, end: fx.Node) -> int:
    shape = graph.analysis.values[end.name, None].shape
    return shape[class_dim(len(shape))]


_FEWEST_CLASSES = 2
"""One output is taken for the mean of a Gaussian, to which least squares has fitted the layer."""


@dataclass(frozen=True)
class Predicted:
    """One batch, and what the unpruned network predicts of it.

    Args:
        lookup: Values of the pruned network.
        reference: Logits of the unpruned network, of the classes that are left: (images,
            positions, classes).
    """

    lookup: Lookup
    reference: Tensor


@dataclass(frozen=True)
class Shift:
    """What is added to the last layer.

    Args:
        weight: As the weight; None where the bias alone is fitted.
        bias: As the bias; None where there is none.
    """

    weight: Tensor | None
    bias: Tensor | None


class LastLayer:
    """The last layer's weights, and how predictions depend on them.

    Args:
        layer: The layer.
        readout: The way to the predictions.
        module: The pruned network.
        shift: Whether its bias may change: nothing else reads it.
    """

    def __init__(
        self, layer: LinearLayer, readout: Target, module: fx.GraphModule, *, shift: bool
    ) -> None:
        self._layer = layer
        self.readout = readout
        self._source = next(x for x in readout.layer.all_input_nodes if x.name == layer.source)
        self._weight = module.get_parameter(layer.weight).detach()
        self._bias = module.get_parameter(str(layer.bias)).detach() if shift else None
        self._network_bytes = sum(each.nbytes for each in module.parameters())

    def divergences(self, batches: Sequence[Predicted], change: Shift | None = None) -> Tensor:
        """Return every image's divergence in nats, mean over positions, (images,)."""
        change = change or Shift(None, None)
        with torch.no_grad():
            return torch.cat([self._divergences(batch, change) for batch in batches])

    def fitted(
        self, batches: Sequence[Predicted], *, weights: bool, max_memory: int
    ) -> Shift | None:
        """Return the change that minimises the divergence, with the prior.

        Args:
            batches: Images to fit.
            weights: Whether the weight may change, or the bias only.
            max_memory: Bytes that may be taken; where the weight needs more the bias alone is
                fitted.

        Returns:
            The change; None where there is nothing to fit.
        """
        needed = _COPIES * self._weight.numel() * _SINGLE
        allowed = min(max(ALWAYS_ALLOWED, self._network_bytes // 2), max_memory)
        weights = weights and needed <= allowed
        if self._weight.dtype.itemsize < _SINGLE or not (weights or self._bias is not None):
            return None
        if max(_COPIES * batch.reference.nbytes for batch in batches) > max_memory:
            return None
        size = self._size(batches)
        free = [torch.zeros_like(self._weight)] if weights else []
        if self._bias is not None:
            free.append(torch.zeros_like(self._bias))
        for each in free:
            each.requires_grad_()

        def shift() -> Shift:
            weight = free[0] / size if weights else None
            return Shift(weight, None if self._bias is None else free[-1])

        self._minimise(free, batches, shift)
        found = shift()
        return Shift(*(None if x is None else x.detach() for x in (found.weight, found.bias)))

    def add(self, change: Shift) -> None:
        """Change the layer, in place."""
        if change.weight is not None:
            self._weight.add_(change.weight)
        if change.bias is not None and self._bias is not None:
            self._bias.add_(change.bias)

    def _minimise(
        self, free: Sequence[Tensor], batches: Sequence[Predicted], shift: Callable[[], Shift]
    ) -> None:
        images = sum(len(batch.reference) for batch in batches)
        predictions = images * batches[0].reference.shape[1]
        variance = max(float(self.divergences(batches).mean()), _LEAST)
        search = torch.optim.LBFGS(
            list(free), max_iter=MOST_STEPS, history_size=_HISTORY, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            search.zero_grad()
            squares = torch.stack([each.double().square().sum() for each in free])
            parts = [squares.sum() / (2 * variance * predictions)]
            parts[0].backward()
            for batch in batches:  # one after the other, so that one graph is held at a time
                part = self._divergences(batch, shift()).sum() / images
                part.backward()
                parts.append(part)
            return torch.stack(parts).detach().sum()

        with torch.enable_grad():
            search.step(loss)

    def _size(self, batches: Sequence[Predicted]) -> float:
        """Return by what a change of one in all weights moves a logit: the root of n m."""
        sources = [batch.lookup(self._source) for batch in batches]
        squares = sum(float(x.double().square().sum()) for x in sources)
        mean = squares / max(sum(x.numel() for x in sources), 1)
        columns = self._layer.layout.matrix(self._weight).shape[-1]
        return math.sqrt(max(columns * mean, _LEAST))

    def _divergences(self, batch: Predicted, shift: Shift) -> Tensor:
        changed = {}
        if shift.weight is not None:
            changed[self._layer.weight] = self._weight + shift.weight
        if shift.bias is not None and self._bias is not None:
            changed[str(self._layer.bias)] = self._bias + shift.bias

        def look(node: fx.Node) -> object:
            own = changed.get(str(node.target)) if node.op == "get_attr" else None
            return batch.lookup(node) if own is None else own

        readout = self.readout
        output = evaluated(readout.layer, look)
        reached = followed(readout.layer, readout.path, batch.lookup)(output)
        return -minus_kl(class_logits([reached]), batch.reference, None).double()
