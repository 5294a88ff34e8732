"""Boxes: what a picture of a network shows, before anything has a place.

Layers (convolutions, linear layers, embeddings) are boxes; norms, activations and reshapes that
follow one are folded into it; sums, products and concatenations are small nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import fx

from graphprune.analysis import overload_name
from graphprune.tracing import module_path

if TYPE_CHECKING:
    from graphprune.graph import DependencyGraph

_LAYERS = ("conv", "linear", "embedding", "addmm", "mm", "einsum")
_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
_SIGNS = {
    "add": "+",
    "sub": "−",
    "mul": "×",
    "div": "÷",
    "cat": "cat",
    "concat": "cat",
    "stack": "stack",
    "matmul": "matmul",
    "bmm": "matmul",
    "scaled_dot_product_attention": "attention",
}
_SILENT = frozenset(
    """
    view reshape flatten unflatten squeeze unsqueeze permute transpose contiguous clone dropout
    getitem slice select split split_with_sizes chunk unbind expand detach alias to _unsafe_view t
    movedim lift_fresh_copy
    """.split()  # noqa: SIM905 - a list of thirty words reads better as words
)

_PARTS = ("getitem", "slice", "select", "narrow", "split", "chunk", "unbind", "tensor_split")
"""What takes a part of a result: the box stays as wide as the whole."""


@dataclass
class Box:
    """One thing in the picture.

    Args:
        kind: ``layer``, ``join``, ``input`` or ``output``.
        title: Its name.
        detail: What it computes.
        last: The last node folded into it, whose axes say which units leave the box.
        sources: Boxes whose results it reads, by place in the list of boxes.
        folded: What follows the layer inside its box.
        width: In pixels; of layers it is set when all are known.
    """

    kind: str
    title: str
    detail: str
    last: fx.Node
    sources: list[int]
    folded: list[str] = field(default_factory=list)
    width: float = 0.0
    row: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def text(self) -> str:
        """What it computes, with what follows it."""
        return " · ".join([self.detail, *self.folded])

    @property
    def height(self) -> float:
        """Height in pixels."""
        return 58.0 if self.kind == "layer" else 26.0

    @property
    def top(self) -> float:
        """Upper edge."""
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        """Lower edge."""
        return self.y + self.height / 2

    @property
    def left(self) -> float:
        """Left edge."""
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        """Right edge."""
        return self.x + self.width / 2


def boxes_of(graph: DependencyGraph) -> list[Box]:
    """Return the boxes of a network in execution order, without places."""
    return _Reader(graph).boxes()


class _Reader:
    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph
        self._boxes: list[Box] = []
        self._box_of: dict[fx.Node, int] = {}

    def boxes(self) -> list[Box]:
        for node in self._graph.nodes.values():
            if node.op == "placeholder":
                self._add(node, "input", str(node.target), "", [])
            elif node.op == "call_function" and self._makes_tensors(node):
                self._read_call(node)
        self._read_outputs()
        return self._boxes

    @staticmethod
    def _makes_tensors(node: fx.Node) -> bool:
        made = node.meta.get("val")
        return isinstance(made, (torch.Tensor, list, tuple))

    def _read_outputs(self) -> None:
        """Add a box for each output, or one for all that one box makes."""
        titles: dict[int, list[str]] = {}
        for output in self._graph.outputs:
            node = self._graph.nodes.get(output.node)
            if node in self._box_of:
                titles.setdefault(self._box_of[node], []).append(output.name)
        for source, names in titles.items():
            title = "output" if len(self._graph.outputs) == 1 else "output " + ", ".join(names)
            last = self._boxes[source].last
            self._boxes.append(Box("output", _fit(title, 40), "", last, [source]))

    def _read_call(self, node: fx.Node) -> None:
        sources = self._sources(node)
        if not sources:
            return  # made of weights alone
        name = _short(node)
        if name.startswith(_LAYERS) and self._has_weight(node):
            self._add(node, "layer", self._title(node), self._describe(node), sources)
        elif len(sources) > 1:
            self._add(node, "join", _SIGNS.get(name, name), "", sources)
        elif name in _NORMS and not self._follows_layer(node, sources[0]):
            self._add(node, "layer", _path(node), name.replace("_", " "), sources)
        else:
            self._fold(node, sources[0], name)

    def _follows_layer(self, node: fx.Node, place: int) -> bool:
        """Whether a norm is all that reads a layer's result, so that it belongs into its box."""
        read = next(source for source in node.all_input_nodes if source in self._box_of)
        return self._boxes[place].kind == "layer" and len(read.users) == 1

    def _sources(self, node: fx.Node) -> list[int]:
        found = [self._box_of[s] for s in node.all_input_nodes if s in self._box_of]
        return list(dict.fromkeys(found))

    def _add(self, node: fx.Node, kind: str, title: str, detail: str, sources: list[int]) -> None:
        self._box_of[node] = len(self._boxes)
        self._boxes.append(Box(kind, title, detail, node, sources))

    def _fold(self, node: fx.Node, place: int, name: str) -> None:
        box = self._boxes[place]
        self._box_of[node] = place
        if box.kind == "input":
            return
        if name not in _PARTS:
            box.last = node
        label = _folded_label(node, name)
        if name not in _SILENT and label not in box.folded:
            box.folded.append(label)

    def _has_weight(self, node: fx.Node) -> bool:
        return any(self._is_constant(source) for source in node.all_input_nodes)

    def _is_constant(self, node: fx.Node) -> bool:
        value = self._graph.analysis.values.get((node.name, None))
        return node not in self._box_of and value is not None and value.constant

    def _title(self, node: fx.Node) -> str:
        """Return the module that holds a layer's weight: a module may call several layers."""
        path = _path(node)
        weight = next(source for source in node.all_input_nodes if self._is_constant(source))
        owner, _, leaf = str(weight.target).rpartition(".")
        if weight.op != "get_attr" or not owner.startswith(path) or "weight" not in leaf:
            return path
        return owner if leaf == "weight" else f"{owner}.{leaf.removesuffix('_weight')}"

    def _describe(self, node: fx.Node) -> str:
        name = _short(node)
        weights = [s for s in node.all_input_nodes if self._is_constant(s)]
        shape = self._graph.analysis.values[weights[0].name, None].shape
        if len(shape) < 2:
            return name
        if name == "embedding" or "transpose" in name:
            return f"{name.replace('_', ' ')} {shape[0]} → {shape[1]}"
        groups = int(node.args[6]) if name.startswith("conv") and len(node.args) > 6 else 1  # type: ignore[arg-type]
        kernel = f", {'×'.join(map(str, shape[2:]))}" if len(shape) > 2 else ""
        return f"{name} {shape[1] * groups} → {shape[0]}{kernel}" + (
            f", {groups} groups" if groups > 1 else ""
        )


def _short(node: fx.Node) -> str:
    """Name of an op without its namespace and overload."""
    parts = overload_name(node).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _folded_label(node: fx.Node, name: str) -> str:
    """Name of an op inside a box: that of its module for a norm, unless that is a bare number."""
    if name in _NORMS:
        own = _path(node).rpartition(".")[2]
        return "norm" if own.isdigit() else own
    return _SIGNS.get(name, name.strip("_").replace("_", " "))


def _path(node: fx.Node) -> str:
    return module_path(node) or node.name


def _fit(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
