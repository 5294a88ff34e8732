"""Layout: where boxes stand, and the ways of the lines between them.

Rows follow the longest path from the input, so data flows from top to bottom. What only one box
reads continues in its column; where several do, they stand side by side; and where ways meet again,
the column goes on in which they parted. So a residual stream is one straight column. Lines that
cannot fall straight run at the side, one lane for each box that they start from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from graphprune.boxes import Box

GAP = 26.0
"""Space between rows, and between boxes of a row."""

_LANE = 12.0


def place(boxes: Sequence[Box]) -> None:
    """Set row, x and y of every box; widths must be known."""
    for box in boxes:
        box.row = 1 + max((boxes[source].row for source in box.sources), default=-1)
    rows: list[list[int]] = [[] for _ in range(1 + max((box.row for box in boxes), default=-1))]
    for number, box in enumerate(boxes):
        rows[box.row].append(number)
    parted = _partings(boxes)
    y = 0.0
    for row in rows:
        _place_row([boxes[number] for number in row], _wanted(row, boxes, parted))
        height = max(boxes[number].height for number in row)
        for number in row:
            boxes[number].y = y + height / 2
        y += height + GAP


def _partings(boxes: Sequence[Box]) -> list[int | None]:
    """Return the box that every way from the input to a box passes last (its dominator)."""
    parted: list[int | None] = []
    depth: list[int] = []
    for box in boxes:
        common: int | None = box.sources[0] if box.sources else None
        for source in box.sources[1:]:
            common = _meeting(common, source, parted, depth)
        parted.append(common)
        depth.append(0 if common is None else depth[common] + 1)
    return parted


def _meeting(
    one: int | None, other: int | None, parted: Sequence[int | None], depth: Sequence[int]
) -> int | None:
    """Return the last box that all ways to both pass."""
    while one != other:
        if one is None or other is None:
            return None
        if depth[one] >= depth[other]:
            one = parted[one]
        else:
            other = parted[other]
    return one


def _wanted(row: Sequence[int], boxes: Sequence[Box], parted: Sequence[int | None]) -> list[float]:
    """Return the columns that the boxes of a row belong to."""
    beside: dict[int, list[int]] = {}
    for number in row:
        if len(boxes[number].sources) == 1:
            beside.setdefault(boxes[number].sources[0], []).append(number)
    found = []
    for place_in_row, number in enumerate(row):
        above = parted[number]
        if above is None:
            found.append(place_in_row * GAP)
            continue
        siblings = beside.get(above, [])
        shift = siblings.index(number) - (len(siblings) - 1) / 2 if number in siblings else 0.0
        found.append(boxes[above].x + shift * (boxes[number].width + GAP))
    return found


def _place_row(row: Sequence[Box], wanted: Sequence[float]) -> None:
    """Put a row as near as possible to where its boxes want to be, and apart.

    Least squares with a smallest distance between neighbours, by pooling adjacent violators.
    """
    order = sorted(range(len(row)), key=wanted.__getitem__)
    offsets = [0.0]
    for left, right in pairwise(order):
        offsets.append(offsets[-1] + (row[left].width + row[right].width) / 2 + GAP)
    pools: list[tuple[float, int]] = []
    for place_in_row, offset in zip(order, offsets, strict=True):
        pools.append((wanted[place_in_row] - offset, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m)]
    free = [x for x, count in pools for _ in range(count)]
    for place_in_row, x, offset in zip(order, free, offsets, strict=True):
        row[place_in_row].x = x + offset


# ---- lines --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """The way from one box to another.

    Args:
        source: Place of the box that it starts from.
        path: Its way, as SVG path data.
        right: How far to the right it reaches.
    """

    source: int
    path: str
    right: float


def lines(boxes: Sequence[Box]) -> list[Line]:
    """Return the lines between boxes that stand in their places."""
    return _Router(boxes).route()


class _Router:
    def __init__(self, boxes: Sequence[Box]) -> None:
        self._boxes = boxes
        self._taken: list[tuple[float, float, float]] = []

    def route(self) -> list[Line]:
        found: list[Line] = []
        around: dict[int, list[Box]] = {}
        for box in self._boxes:
            for place in box.sources:
                source = self._boxes[place]
                if box.row - source.row == 1:
                    found.append(Line(place, _curve(source, box), 0.0))
                elif self._is_free(source, box):
                    found.append(Line(place, _fall(source, box), 0.0))
                else:
                    around.setdefault(place, []).append(box)
        for place, targets in sorted(around.items()):
            lane = self._lane(self._boxes[place], targets)
            for target in targets:
                path = _around(self._boxes[place], target, lane)
                found.append(Line(place, path, lane))
        return found

    def _is_free(self, source: Box, target: Box) -> bool:
        """Whether nothing stands straight below the source down to the target."""
        between = (box for box in self._boxes if source.row < box.row < target.row)
        return all(abs(box.x - source.x) > box.width / 2 + 6 for box in between)

    def _lane(self, source: Box, targets: Sequence[Box]) -> float:
        """Return the x of a free lane, right of everything between a box and its last reader."""
        last = max(target.row for target in targets)
        start, end = source.y, max(target.y for target in targets)
        x = 16 + max(box.right for box in self._boxes if source.row <= box.row <= last)
        while any(
            abs(x - other) < _LANE - 1 and start < below and above < end
            for other, above, below in self._taken
        ):
            x += _LANE
        self._taken.append((x, start, end))
        return x


def _curve(source: Box, target: Box) -> str:
    start, end = source.bottom, target.top
    middle = (start + end) / 2
    return (
        f"M{source.x:.1f} {start:.1f} C{source.x:.1f} {middle:.1f} "
        f"{target.x:.1f} {middle:.1f} {target.x:.1f} {end:.1f}"
    )


def _fall(source: Box, target: Box) -> str:
    end, turn = target.top, target.top - GAP
    return (
        f"M{source.x:.1f} {source.bottom:.1f} L{source.x:.1f} {turn:.1f} C{source.x:.1f} {end:.1f} "
        f"{target.x:.1f} {turn:.1f} {target.x:.1f} {end:.1f}"
    )


def _around(source: Box, target: Box, x: float) -> str:
    bend = 8.0
    return (
        f"M{source.right:.1f} {source.y:.1f} L{x - bend:.1f} {source.y:.1f} "
        f"Q{x:.1f} {source.y:.1f} {x:.1f} {source.y + bend:.1f} L{x:.1f} {target.y - bend:.1f} "
        f"Q{x:.1f} {target.y:.1f} {x - bend:.1f} {target.y:.1f} L{target.right:.1f} {target.y:.1f}"
    )
