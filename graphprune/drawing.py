"""A picture of a network that a person can read: one box per layer, coloured by pruning group.

Layers (convolutions, linear layers, embeddings) are boxes; norms, activations and reshapes that
follow one are folded into it; sums, products and concatenations are small nodes. Rows follow the
longest path from the input, so data flows from top to bottom; skip connections run at the side.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

import numpy as np
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
class _Box:
    """One thing in the picture.

    Args:
        kind: ``layer``, ``join``, ``input`` or ``output``.
        title: Its name.
        detail: What it computes.
        last: The last node folded into it, whose axes say which units leave the box.
        sources: Boxes whose results it reads, by place in the list of boxes.
        folded: What follows the layer inside its box.
    """

    kind: str
    title: str
    detail: str
    last: fx.Node
    sources: list[int]
    folded: list[str] = field(default_factory=list)
    row: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        """Width in pixels."""
        if self.kind == "layer":
            return 216.0
        return max(30.0, 16.0 + 7.0 * len(self.title))

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


def draw(graph: DependencyGraph) -> str:
    """Return a picture of a network as SVG text.

    Args:
        graph: The network, with its groups.
    """
    boxes = _Reader(graph).boxes()
    _place(boxes)
    return _Painter(graph, boxes).paint()


# ---- from the graph to boxes --------------------------------------------------------------------


class _Reader:
    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph
        self._boxes: list[_Box] = []
        self._box_of: dict[fx.Node, int] = {}

    def boxes(self) -> list[_Box]:
        for node in self._graph.nodes.values():
            if node.op == "placeholder":
                self._add(node, "input", str(node.target), "", [])
            elif node.op == "output":
                self._read_output(node)
            elif node.op == "call_function" and self._makes_tensors(node):
                self._read_call(node)
        return self._boxes

    @staticmethod
    def _makes_tensors(node: fx.Node) -> bool:
        made = node.meta.get("val")
        return isinstance(made, (torch.Tensor, list, tuple))

    def _read_output(self, node: fx.Node) -> None:
        sources = self._sources(node)
        if sources:
            self._add(node, "output", "output", "", sources)

    def _read_call(self, node: fx.Node) -> None:
        sources = self._sources(node)
        if not sources:
            return  # made of weights alone
        name = _short(node)
        if name.startswith(_LAYERS) and self._has_weight(node):
            self._add(node, "layer", _title(node), self._describe(node), sources)
        elif len(sources) > 1:
            self._add(node, "join", _SIGNS.get(name, name), "", sources)
        elif name in _NORMS and not self._follows_layer(node, sources[0]):
            self._add(node, "layer", _title(node), name.replace("_", " "), sources)
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
        self._boxes.append(_Box(kind, title, detail, node, sources))

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

    def _describe(self, node: fx.Node) -> str:
        name = _short(node)
        weights = [s for s in node.all_input_nodes if self._is_constant(s)]
        shape = self._graph.analysis.values[weights[0].name, None].shape
        if len(shape) < 2:
            return name
        if name == "embedding" or "transpose" in name:
            return f"{name} {shape[0]} → {shape[1]}"
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
        own = _title(node).rpartition(".")[2]
        return "norm" if own.isdigit() else own
    return _SIGNS.get(name, name.rstrip("_").replace("_", " "))


def _title(node: fx.Node) -> str:
    return module_path(node) or node.name


# ---- layout -------------------------------------------------------------------------------------

_GAP = 26.0
"""Space between rows, and between boxes of a row."""


def _place(boxes: list[_Box]) -> None:
    """Set row, x and y of every box."""
    for box in boxes:
        box.row = 1 + max((boxes[source].row for source in box.sources), default=-1)
    rows: list[list[_Box]] = [[] for _ in range(1 + max((box.row for box in boxes), default=-1))]
    for box in boxes:
        rows[box.row].append(box)
    y = 0.0
    for row in rows:
        _place_row(row, boxes)
        height = max(box.height for box in row)
        for box in row:
            box.y = y + height / 2
        y += height + _GAP


def _place_row(row: list[_Box], boxes: list[_Box]) -> None:
    """Put boxes below the mean of what they read, apart from each other."""
    for box in row:
        above = [boxes[source].x for source in box.sources]
        box.x = sum(above) / len(above) if above else 0.0
    wanted = [box.x for box in row]
    ordered = sorted(row, key=lambda box: box.x)
    for left, right in pairwise(ordered):
        right.x = max(right.x, left.x + (left.width + right.width) / 2 + _GAP)
    shift = (sum(wanted) - sum(box.x for box in row)) / len(row)
    for box in row:
        box.x += shift


# ---- painting -----------------------------------------------------------------------------------

_INK, _GREY, _LINE = "#222222", "#e4e4e4", "#777777"
_LANE = 14.0
_CHARACTERS = 34
"""How many characters of the small font fit into a box."""


class _Painter:
    def __init__(self, graph: DependencyGraph, boxes: list[_Box]) -> None:
        self._graph = graph
        self._boxes = boxes
        self._bands: list[str] = []
        self._lanes: dict[int, list[tuple[float, float]]] = {}
        self._right = max((box.x + box.width / 2 for box in boxes), default=0.0)
        self._left = min((box.x - box.width / 2 for box in boxes), default=0.0)

    def paint(self) -> str:
        edges = [self._edge(self._boxes[s], box) for box in self._boxes for s in box.sources]
        shapes = [self._box(box) for box in self._boxes]
        margin = 12.0
        bottom = max((box.bottom for box in self._boxes), default=0.0)
        left, width = self._left - margin, self._right - self._left + 2 * margin
        height = bottom + 2 * margin
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="{left:.0f} {-margin:.0f} {width:.0f} {height:.0f}" '
            'font-family="Helvetica, Arial, sans-serif" font-size="11">'
        )
        arrow = (
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{_LINE}"/>'
            "</marker></defs>"
        )
        ground = (
            f'<rect x="{left:.0f}" y="{-margin:.0f}" width="{width:.0f}" height="{height:.0f}" '
            'fill="white"/>'
        )
        return "\n".join([head, arrow, ground, *edges, *shapes, "</svg>"]) + "\n"

    # ---- edges -------------------------------------------------------------------------------

    def _edge(self, source: _Box, target: _Box) -> str:
        start, end = source.bottom, target.top
        if target.row - source.row == 1:
            middle = (start + end) / 2
            way = f"M{source.x:.1f} {start:.1f} C{source.x:.1f} {middle:.1f} "
            way += f"{target.x:.1f} {middle:.1f} {target.x:.1f} {end:.1f}"
        elif self._is_free(source, target):
            turn = end - _GAP
            way = (
                f"M{source.x:.1f} {start:.1f} L{source.x:.1f} {turn:.1f} C{source.x:.1f} {end:.1f} "
            )
            way += f"{target.x:.1f} {turn:.1f} {target.x:.1f} {end:.1f}"
        else:
            way = self._way_around(source, target)
        return (
            f'<path d="{way}" fill="none" stroke="{_LINE}" stroke-width="1.4" '
            'marker-end="url(#arrow)"/>'
        )

    def _between(self, source: _Box, target: _Box) -> list[_Box]:
        return [box for box in self._boxes if source.row < box.row < target.row]

    def _is_free(self, source: _Box, target: _Box) -> bool:
        """Whether nothing lies straight below the source down to the target."""
        return all(
            abs(box.x - source.x) > box.width / 2 + 6 for box in self._between(source, target)
        )

    def _way_around(self, source: _Box, target: _Box) -> str:
        spanned = [source, target, *self._between(source, target)]
        edge = max(box.x + box.width / 2 for box in spanned)
        lane = self._free_lane(source.y, target.y)
        x = edge + 16 + _LANE * lane
        self._right = max(self._right, x + 4)
        x0, x1 = source.x + source.width / 2, target.x + target.width / 2
        return (
            f"M{x0:.1f} {source.y:.1f} C{x:.1f} {source.y:.1f} {x:.1f} {source.y:.1f} "
            f"{x:.1f} {source.bottom + 8:.1f} L{x:.1f} {target.top - 8:.1f} "
            f"C{x:.1f} {target.y:.1f} {x:.1f} {target.y:.1f} {x1:.1f} {target.y:.1f}"
        )

    def _free_lane(self, start: float, end: float) -> int:
        lane = 0
        while any(
            start < other_end and other_start < end
            for other_start, other_end in self._lanes.get(lane, [])
        ):
            lane += 1
        self._lanes.setdefault(lane, []).append((start, end))
        return lane

    # ---- boxes -------------------------------------------------------------------------------

    def _box(self, box: _Box) -> str:
        groups, n_units = self._groups(box)
        colours = [_colour(place) for place in groups] or [_GREY]
        radius = 6 if box.kind == "layer" else 13
        left = box.x - box.width / 2
        parts = [f"<g><title>{escape(self._tooltip(box, groups))}</title>"]
        fill = colours[0]
        if box.kind == "join" and len(colours) > 1:
            fill = f"url(#bands{len(self._bands)})"
            self._bands.append(_bands(fill[5:-1], colours))
            parts.append(self._bands[-1])
        parts.append(
            f'<rect x="{left:.1f}" y="{box.top:.1f}" width="{box.width:.1f}" '
            f'height="{box.height:.1f}" rx="{radius}" fill="{fill}" stroke="{_INK}"/>'
        )
        if box.kind == "layer":
            parts += self._stripes(box, colours[1:])
            parts += self._texts(box, groups, n_units)
        else:
            parts.append(_text(box.x, box.y + 4, box.title, size=12))
        return "\n".join([*parts, "</g>"])

    @staticmethod
    def _stripes(box: _Box, colours: Sequence[str]) -> list[str]:
        """Mark the other groups of a box at its right edge."""
        height = (box.height - 12) / max(len(colours), 1)
        return [
            f'<rect x="{box.x + box.width / 2 - 7:.1f}" y="{box.top + 6 + k * height:.1f}" '
            f'width="7" height="{height:.1f}" fill="{colour}" stroke="{_INK}" stroke-width="0.5"/>'
            for k, colour in enumerate(colours)
        ]

    def _texts(self, box: _Box, groups: list[int], n_units: int) -> Iterable[str]:
        detail = " · ".join([box.detail, *box.folded])
        yield _text(box.x, box.top + 17, _fit(box.title, 30), size=12, bold=True)
        yield _text(box.x, box.top + 33, _fit(detail, _CHARACTERS, at_end=True))
        yield _text(box.x, box.top + 49, self._width_text(box, groups, n_units), colour="#444444")

    def _width_text(self, box: _Box, groups: list[int], n_units: int) -> str:
        if not groups:
            return _fit(f"stays: {self._reason(box)}", _CHARACTERS, at_end=True)
        names = [self._graph.groups[place].name for place in groups]
        units = f"{n_units} unit{'s' if n_units != 1 else ''}"
        more = f" +{len(names) - 1}" if len(names) > 1 else ""
        return f"{_fit(names[0], _CHARACTERS - len(units) - len(more) - 3)}{more} · {units}"

    def _tooltip(self, box: _Box, groups: list[int]) -> str:
        names = ", ".join(self._graph.groups[place].name for place in groups)
        return f"{box.title}: {names or self._reason(box)}"

    def _reason(self, box: _Box) -> str:
        solution = self._graph.analysis.solution
        for dim in solution.axes.get((box.last.name, None), {}):
            return self._graph.reason((box.last.name, None), dim)
        return "fixed size"

    def _groups(self, box: _Box) -> tuple[list[int], int]:
        """Return the groups of the units that leave a box, and how many units these are."""
        units = [along[along >= 0] for along in self._graph.units_of(box.last.name)]
        present = np.unique(np.concatenate(units)) if units else np.zeros(0, np.int64)
        firsts = np.array([group.first for group in self._graph.groups], np.int64)
        places = np.unique(np.searchsorted(firsts, present, "right") - 1)
        return places.tolist(), int(present.size)


def _colour(place: int) -> str:
    """Return a light colour; neighbouring groups get hues far apart."""
    hue = (205 + 137.508 * place) % 360
    rgb = colorsys.hls_to_rgb(hue / 360, 0.82 - 0.04 * (place // 8 % 3), 0.65)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def _bands(name: str, colours: Sequence[str]) -> str:
    """Return a fill of vertical bands, for a node in which several groups meet."""
    stops = [
        f'<stop offset="{(k + side) / len(colours):.3f}" stop-color="{colour}"/>'
        for k, colour in enumerate(colours)
        for side in (0, 1)
    ]
    return f'<linearGradient id="{name}">{"".join(stops)}</linearGradient>'


def _text(
    x: float, y: float, text: str, *, size: int = 11, bold: bool = False, colour: str = _INK
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="{size}"{weight} '
        f"fill={quoteattr(colour)}>{escape(text)}</text>"
    )


def _fit(text: str, characters: int, *, at_end: bool = False) -> str:
    """Shorten from the left, since the end of a path says most, or at the end."""
    if len(text) <= characters:
        return text
    return text[: characters - 1] + "…" if at_end else "…" + text[len(text) - characters + 1 :]
