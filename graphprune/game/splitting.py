"""Cutting a gated network in two: what no coalition changes, and the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphprune.batching import BatchPlace
from graphprune.game.masking import GATES
from graphprune.graph import DependencyGraph


@dataclass(frozen=True)
class SplitNetwork:
    """A gated network cut in two.

    Args:
        prefix: Flat inputs -> values at the border; run once per batch.
        suffix: Gates and the values at the border -> flat outputs.
        places: Where each value at the border holds the samples of the batch; None if it does not.
    """

    prefix: fx.GraphModule
    suffix: fx.GraphModule
    places: tuple[BatchPlace | None, ...]

    def repeated(self, border: tuple[Tensor, ...], times: int) -> tuple[Tensor, ...]:
        """Repeat what the border holds of a batch, all samples following each other."""
        return tuple(
            value if place is None or times == 1 else _repeated(value, place, times)
            for value, place in zip(border, self.places, strict=True)
        )

    @property
    def repeats(self) -> bool:
        """Whether it is known how to repeat everything at the border."""
        return all(place is None or place.known for place in self.places)


def _repeated(value: Tensor, place: BatchPlace, times: int) -> Tensor:
    split = value.unflatten(place.dim, (place.outer, 1, -1, place.repeats))
    shape = [-1] * split.dim()
    shape[place.dim + 1] = times
    repeated: Tensor = split.expand(shape).flatten(place.dim, place.dim + 3)
    return repeated


def split_at_gates(gated: fx.GraphModule, graph: DependencyGraph) -> SplitNetwork:
    """Cut a gated network where its gates begin to matter.

    Args:
        gated: What :func:`graphprune.game.masking.gated_module` made; nodes that it copied keep
            their names.
        graph: The network that it was made of.
    """
    depends = _depends_on_gates(gated.graph)
    border = [
        node
        for node in gated.graph.nodes
        if node not in depends
        and node.op != "get_attr"
        and any(user in depends for user in node.users)
    ]
    places = tuple(_place(node, graph) for node in border)
    return SplitNetwork(_prefix(gated, border), _suffix(gated, border, depends), places)


def _place(node: fx.Node, graph: DependencyGraph) -> BatchPlace | None:
    """Return where a value at the border holds the batch; unknown for sizes, which may count it."""
    if not isinstance(node.meta.get("val"), torch.Tensor):
        return BatchPlace(0, 1, known=False)
    return graph.analysis.batch_places.get(node.name)


def _depends_on_gates(graph: fx.Graph) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.target == GATES or node.op == "output" or found & set(node.all_input_nodes):
            found.add(node)
    return found


def _prefix(gated: fx.GraphModule, border: list[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in _needed_for(border, gated.graph):
        copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(tuple(copied[node] for node in border))
    return fx.GraphModule(gated, graph, "Prefix")


def _needed_for(border: list[fx.Node], graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield what computes the border, and all inputs, so that the signature stays."""
    needed = set(border)
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    for node in graph.nodes:
        if node in needed or (node.op == "placeholder" and node.target != GATES):
            yield node


def _suffix(gated: fx.GraphModule, border: list[fx.Node], depends: set[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copied = {node: graph.placeholder(GATES) for node in gated.graph.nodes if node.target == GATES}
    for place, node in enumerate(border):
        copied[node] = graph.placeholder(f"border_{place}")
    for node in gated.graph.nodes:
        read = node.op == "get_attr" and any(user in depends for user in node.users)
        if node not in copied and (node in depends or read):
            copied[node] = graph.node_copy(node, copied.__getitem__)
    return fx.GraphModule(gated, graph, "Suffix")
