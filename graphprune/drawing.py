"""A picture of a network that a person can read: one box per layer, coloured by pruning group.

Groups are numbered in the legend; a box shows the numbers of the groups whose units leave it, so
colours need not differ between all of them. What stays is hatched and says why. Colours are the
"light" scheme of Paul Tol, which people with colour-blindness can tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from graphprune.boxes import Box, boxes_of
from graphprune.kinds import UnitKinds
from graphprune.layout import Line, lines, place

if TYPE_CHECKING:
    from graphprune.graph import DependencyGraph, Kept
    from graphprune.groups import UnitIds

_PALETTE = (
    "#77aadd",
    "#ee8866",
    "#eedd88",
    "#ffaabb",
    "#44bb99",
    "#99ddff",
    "#bbcc33",
    "#aaaa00",
)
_INK, _QUIET, _LINE, _PLAIN = "#222222", "#444444", "#777777", "#f2f2f2"
_HATCHED = "url(#stays)"

_BOLD, _SMALL = 6.9, 5.6
"""Mean widths of a character in pixels: titles in 12 pixels bold, text in 11."""

_NARROWEST, _WIDEST = 150.0, 300.0
_IMAGES = ("conv", "batch norm", "group norm", "instance norm")
_MARGIN = 12.0
_ROW = 18.0
_LEGEND_NAME = 46
"""How many characters of a group's name the legend shows."""


def draw(graph: DependencyGraph, kept: Kept | None = None) -> str:
    """Return a picture of a network as SVG text.

    Args:
        graph: The network, with its groups.
        kept: Units that a plan keeps, (n_units,) Bool: widths are shown before and after, and a bar
            in every box is filled as far as it stays.
    """
    boxes = boxes_of(graph)
    painter = _Painter(graph, boxes, kept)
    painter.set_widths()
    place(boxes)
    return painter.paint()


class _Painter:
    def __init__(self, graph: DependencyGraph, boxes: list[Box], kept: Kept | None) -> None:
        self._graph = graph
        self._boxes = boxes
        self._kept = kept
        self._kinds = UnitKinds(graph)
        self._bands = 0

    def set_widths(self) -> None:
        """Make layers as wide as the longest text, within bounds, and all equally wide."""
        layers = [box for box in self._boxes if box.kind == "layer"]
        wanted = [
            20
            + max(_BOLD * len(box.title), _SMALL * max(len(box.text), len(self._width_text(box))))
            for box in layers
        ]
        width = min(max([_NARROWEST, *wanted]), _WIDEST)
        for box in self._boxes:
            small = max(30.0, 16.0 + 7.0 * len(box.title))
            box.width = width if box.kind == "layer" else small

    def paint(self) -> str:
        ways = lines(self._boxes)
        left = min((box.left for box in self._boxes), default=0.0)
        right = max([box.right for box in self._boxes] + [way.right for way in ways], default=0.0)
        legend = _Legend(self._graph, self._kinds, self._kept)
        start = left - legend.width - 2 * _MARGIN
        bottom = max([legend.height, *(box.bottom for box in self._boxes)])
        size = (start - _MARGIN, -_MARGIN, right - start + 2 * _MARGIN, bottom + 2 * _MARGIN)
        return "\n".join(
            [
                _head(*size),
                *(self._line(way) for way in ways),
                *(self._box(box) for box in self._boxes),
                *legend.paint(start),
                "</svg>\n",
            ]
        )

    def _line(self, way: Line) -> str:
        groups, _ = self._groups(self._boxes[way.source])
        # Lines at the side are long: their colour says where they come from.
        colour = _dark(_colour(groups[0])) if way.right and len(groups) == 1 else _LINE
        return (
            f'<path d="{way.path}" fill="none" stroke="{colour}" stroke-width="1.4" '
            'marker-end="url(#arrow)"/>'
        )

    # ---- boxes -------------------------------------------------------------------------------

    def _box(self, box: Box) -> str:
        groups, _ = self._groups(box)
        parts = [f"<g><title>{escape(self._tooltip(box, groups))}</title>"]
        fill, made = self._fill(box, groups)
        parts += made
        radius = 6 if box.kind == "layer" else 13
        dashes = ' stroke-dasharray="4 3"' if fill == _HATCHED else ""
        parts.append(
            f'<rect x="{box.left:.1f}" y="{box.top:.1f}" width="{box.width:.1f}" '
            f'height="{box.height:.1f}" rx="{radius}" fill="{fill}" stroke="{_INK}"{dashes}/>'
        )
        if box.kind == "layer":
            parts += self._stripes(box, [_colour(group) for group in groups[1:]])
            parts += self._share(box)
            parts += self._texts(box)
        else:
            parts.append(_text(box.x, box.y + 4, box.title, size=12))
        return "\n".join([*parts, "</g>"])

    def _fill(self, box: Box, groups: Sequence[int]) -> tuple[str, list[str]]:
        """Return the fill of a box, and what must be defined for it."""
        if not groups:
            return (_HATCHED if box.kind == "layer" else _PLAIN), []
        colours = list(dict.fromkeys(_colour(group) for group in groups))
        if box.kind == "layer" or len(colours) == 1:
            return colours[0], []
        self._bands += 1
        name = f"bands{self._bands}"
        return f"url(#{name})", [_gradient(name, colours)]

    @staticmethod
    def _stripes(box: Box, colours: Sequence[str]) -> list[str]:
        """Mark the other groups of a box at its right edge."""
        height = (box.height - 12) / max(len(colours), 1)
        return [
            f'<rect x="{box.right - 7:.1f}" y="{box.top + 6 + k * height:.1f}" '
            f'width="7" height="{height:.1f}" fill="{colour}" stroke="{_INK}" stroke-width="0.5"/>'
            for k, colour in enumerate(colours)
        ]

    def _share(self, box: Box) -> list[str]:
        """Fill a bar at the bottom of a box as far as it stays."""
        _, units = self._groups(box)
        if self._kept is None or not units.size:
            return []
        room = box.width - 20
        share = float(self._kept[units].mean())
        place = f'x="{box.left + 10:.1f}" y="{box.bottom - 4.5:.1f}" height="2.5"'
        return [
            f'<rect {place} width="{room:.1f}" fill="white" fill-opacity="0.65"/>',
            f'<rect {place} width="{share * room:.1f}" fill="{_INK}"/>',
        ]

    def _texts(self, box: Box) -> Iterable[str]:
        room = box.width - 20
        yield _text(box.x, box.top + 17, _fit(box.title, int(room / _BOLD)), size=12, bold=True)
        yield _text(box.x, box.top + 33, _fit(box.text, int(room / _SMALL), at_end=True))
        below = _fit(self._width_text(box), int(room / _SMALL), at_end=True)
        yield _text(box.x, box.top + 49, below, colour=_QUIET)

    def _width_text(self, box: Box) -> str:
        groups, units = self._groups(box)
        if not groups:
            return f"stays: {self._reason(box)}"
        numbers = ", ".join(str(group + 1) for group in groups[:3])
        more = f" and {len(groups) - 3} more" if len(groups) > 3 else ""
        word = "group" if len(groups) == 1 else "groups"
        return f"{word} {numbers}{more} · {self._counted(groups, units)}{self._staying(box)}"

    def _counted(self, groups: Sequence[int], units: UnitIds) -> str:
        kinds = {self._kinds.of(self._graph.groups[group]) for group in groups}
        return _counted(units, kinds.pop() if len(kinds) == 1 else "unit", self._kept)

    def _staying(self, box: Box) -> str:
        """Say how many entries of an axis with units stay."""
        along = self._graph.units_of(box.last.name)
        stays = sum(int(np.count_nonzero(units < 0)) for units in along)
        return f", {stays} more stay" if stays else ""

    def _tooltip(self, box: Box, groups: Sequence[int]) -> str:
        names = ", ".join(self._graph.groups[group].name for group in groups)
        return f"{box.title}: {names or self._reason(box)}"

    def _reason(self, box: Box) -> str:
        key = (box.last.name, None)
        dims = self._graph.analysis.solution.axes.get(key, {})
        if not dims:
            return "fixed size"
        # Channels lie along dim 1 of images and along the last dim of everything else.
        return self._graph.reason(
            key, 1 if box.detail.startswith(_IMAGES) and 1 in dims else max(dims)
        )

    def _groups(self, box: Box) -> tuple[list[int], UnitIds]:
        """Return the groups of the units that leave a box, and these units."""
        units = [along[along >= 0] for along in self._graph.units_of(box.last.name)]
        present = np.unique(np.concatenate(units)) if units else np.zeros(0, np.int64)
        places = np.unique(np.searchsorted(self._firsts, present, "right") - 1)
        return places.tolist(), present

    @cached_property
    def _firsts(self) -> np.ndarray:
        return np.array([group.first for group in self._graph.groups], np.int64)


class _Legend:
    """The groups by number, with their names and widths."""

    def __init__(self, graph: DependencyGraph, kinds: UnitKinds, kept: Kept | None) -> None:
        numbers = np.arange(graph.n_units)
        self._rows = [
            (
                _fit(group.name, _LEGEND_NAME),
                _counted(numbers[group.span], kinds.of(group), kept),
            )
            for group in graph.groups
        ]
        longest = max((len(name) for name, _ in self._rows), default=0)
        self._counts_at = 34 + _SMALL * max(longest, 10) + 16
        widest = max((len(count) for _, count in self._rows), default=0)
        self.width = self._counts_at + _SMALL * max(widest, 12)
        self.height = _ROW * (len(self._rows) + 2)

    def paint(self, left: float) -> Iterator[str]:
        yield _text(left, 10, "groups", size=12, bold=True, anchor="start")
        for k, (name, count) in enumerate(self._rows):
            y = _ROW * (k + 1)
            yield _swatch(left, y, _colour(k))
            yield _text(left + 14, y + 12, str(k + 1))
            yield _text(left + 34, y + 12, name, anchor="start")
            yield _text(left + self._counts_at, y + 12, count, anchor="start")
        y = _ROW * (len(self._rows) + 1)
        yield _swatch(left, y, _HATCHED)
        yield _text(left + 34, y + 12, "stays, for the reason given", anchor="start")


# ---- SVG ----------------------------------------------------------------------------------------


def _head(left: float, top: float, width: float, height: float) -> str:
    box = f"{left:.0f} {top:.0f} {width:.0f} {height:.0f}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="{box}" font-family="Helvetica, Arial, sans-serif" font-size="11">',
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{_LINE}"/></marker>',
            '<pattern id="stays" width="7" height="7" patternUnits="userSpaceOnUse" '
            'patternTransform="rotate(45)"><path d="M0 0 H7 V7 H0 z" fill="#f7f7f7"/>'
            '<path d="M0 0 V7" stroke="#d5d5d5" stroke-width="3"/></pattern></defs>',
            f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" '
            'fill="white"/>',
        ]
    )


def _colour(group: int) -> str:
    return _PALETTE[group % len(_PALETTE)]


def _dark(colour: str) -> str:
    parts = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return "#" + "".join(f"{round(0.65 * part):02x}" for part in parts)


def _gradient(name: str, colours: Sequence[str]) -> str:
    """Return a fill of vertical bands, for a node in which several groups meet."""
    stops = [
        f'<stop offset="{(k + side) / len(colours):.3f}" stop-color="{colour}"/>'
        for k, colour in enumerate(colours)
        for side in (0, 1)
    ]
    return f'<linearGradient id="{name}">{"".join(stops)}</linearGradient>'


def _swatch(left: float, top: float, fill: str) -> str:
    return (
        f'<rect x="{left:.1f}" y="{top + 1:.1f}" width="28" height="{_ROW - 3:.1f}" rx="3" '
        f'fill="{fill}" stroke="{_INK}" stroke-width="0.6"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 11,
    bold: bool = False,
    colour: str = _INK,
    anchor: str = "middle",
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight} '
        f"fill={quoteattr(colour)}>{escape(text)}</text>"
    )


def _counted(units: UnitIds, kind: str, kept: Kept | None) -> str:
    """Count units, before and after where some go."""
    count = units.size
    left = count if kept is None else int(np.count_nonzero(kept[units]))
    shown = f"{count}" if left == count else f"{count} → {left}"
    return f"{shown} {kind}{'s' if count != 1 else ''}"


def _fit(text: str, characters: int, *, at_end: bool = False) -> str:
    """Shorten from the left, since the end of a path says most, or at the end."""
    if len(text) <= characters:
        return text
    return text[: characters - 1] + "…" if at_end else "…" + text[len(text) - characters + 1 :]
