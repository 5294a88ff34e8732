"""Plots of a comparison, with bands of one standard error over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphprune.comparison.contestants import FLOOR
from graphprune.comparison.records import (
    Comparison,
    Mean,
    OracleRow,
    RobustnessRow,
    Summary,
    mean_of,
)
from graphprune.comparison.robustness import Curve
from graphprune.figures import COLOURS, inline_svg, panels, write_figures
from graphprune.ranking import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"macs": "multiply-accumulates", "params": "parameters", "units": "units"}

_MOST_PANELS = 32
_PER_ROW = 4
_GRID = 41

_MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class _Measure:
    """A figure of merit, as it is drawn.

    Args:
        file: Name of the plot's file.
        label: What stands along the axis.
        of: Picks it from a summary.
        unpruned: What the unpruned network has; None where that cannot be drawn.
        scale: What it is multiplied with.
    """

    file: str
    label: str
    of: Callable[[Summary], Mean | None]
    unpruned: float | None
    scale: float


def write_plots(found: Comparison, folder: Path, kind: str = "svg") -> tuple[Path, ...]:
    """Draw what a comparison has found.

    Args:
        found: The comparison.
        folder: Where the files go: ``accuracy`` (or ``agreement``), ``kl``, ``robustness``,
            ``robustness-groups`` and ``oracle``, as far as there is something to draw.
        kind: ``svg``, ``png`` or ``none``.

    Returns:
        The files written.

    Raises:
        OptionError: The kind is unknown.
        ArtifactError: The folder cannot be written to.
    """
    return write_figures(_figures(found), folder, kind)


def against_ratio(found: Comparison) -> str:
    """Return accuracy (or agreement) against ratio as an SVG element; '' if nothing was judged."""
    return next(iter(inline_svg(islice(_figures(found), 1)).values()), "") if found.cells else ""


def _figures(found: Comparison) -> Iterator[tuple[str, Figure]]:
    pens = _Pens(found.criteria)
    for measure in _measures(found):
        if any(measure.of(row) is not None for row in found.summary):
            yield measure.file, _against_ratio(found, measure, pens)
    if found.robustness:
        yield "robustness", _robustness(found.robustness, pens)
        yield "robustness-groups", _robustness_of_groups(found.robustness, pens)
    if found.oracle:
        yield "oracle", _oracle(found, pens)


class _Pens:
    """How each criterion is drawn, the same in all plots; the floor is grey."""

    def __init__(self, criteria: Sequence[str]) -> None:
        self._order = [label for label in criteria if label != FLOOR]

    def of(self, label: str) -> dict[str, Any]:
        """Return the look of a criterion's line."""
        if label == FLOOR:
            return {"color": "0.45", "marker": "", "linestyle": "--"}
        place = self._order.index(label)
        again = place // len(COLOURS)
        return {
            "color": COLOURS[place % len(COLOURS)],
            "marker": _MARKERS[place % len(_MARKERS)],
            "linestyle": ("-", "-.", ":")[again % 3],
        }


def _draw(
    axes: Axes, pen: dict[str, Any], label: str, x: Scores, points: Sequence[Mean], scale: float = 1
) -> None:
    """Draw means with a band of one standard error."""
    means = scale * np.array([point.mean for point in points])
    axes.plot(x, means, label=label, markersize=4, linewidth=1.5, **pen)
    if all(point.stderr is not None for point in points):
        errors = scale * np.array([point.stderr for point in points])
        axes.fill_between(
            x, means - errors, means + errors, color=pen["color"], alpha=0.18, linewidth=0
        )


def _legend(figure: Figure, axes: Axes, *, above: bool = False) -> None:
    """Write one legend for all panels, below or above them, as wide as the figure."""
    handles, labels = axes.get_legend_handles_labels()
    letters = _LETTERS * figure.get_figwidth()
    columns = int(letters / (max(map(len, labels)) + _HANDLE))
    rows = -(-len(labels) // max(columns, 1))
    where: Literal["outside upper center", "outside lower center"]
    where = "outside upper center" if above else "outside lower center"
    figure.legend(handles, labels, loc=where, ncols=-(-len(labels) // rows))


_LETTERS, _HANDLE = 13.0, 8
"""Letters of a legend that fit on an inch, and how many a line and its margins take."""


# ---- accuracy against ratio ---------------------------------------------------------------------


def _measures(found: Comparison) -> tuple[_Measure, ...]:
    unpruned = found.unpruned
    kl = _Measure("kl", "divergence from unpruned (nats)", lambda r: r.kl, None, 1)
    if unpruned.accuracy is not None:
        return (
            _Measure("accuracy", "accuracy (%)", lambda r: r.accuracy, unpruned.accuracy, 100),
            kl,
        )
    label = "agreement with the unpruned network (%)"
    return (_Measure("agreement", label, lambda r: r.agreement, 1.0, 100), kl)


def _against_ratio(found: Comparison, measure: _Measure, pens: _Pens) -> Figure:
    repairs = found.repairs
    figure, grid = panels(len(repairs), per_row=3, width=4.0, height=3.6)
    for axes, method in zip(grid, repairs, strict=True):
        if measure.unpruned is None:
            _use_logarithms(axes)
        else:
            unpruned = measure.scale * measure.unpruned
            axes.axhline(unpruned, color="0.2", linewidth=0.8, linestyle=":", label="unpruned")
        for label in found.criteria:
            _draw_criterion(axes, found, measure, (label, method), pens)
        axes.set_title(f"repair: {method}")
        axes.set_xlabel(f"{NAMES.get(found.conditions.of, found.conditions.of)} removed (%)")
        axes.set_xlim(left=0)
    _share_limits(grid, measure)
    grid[0].set_ylabel(measure.label)
    _legend(figure, grid[0])
    return figure


def _use_logarithms(axes: Axes) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_criterion(
    axes: Axes, found: Comparison, measure: _Measure, which: tuple[str, str], pens: _Pens
) -> None:
    rows = [row for row in found.summary if (row.criterion, row.repair) == which]
    known = [(row.reached, point) for row in rows if (point := measure.of(row)) is not None]
    if measure.unpruned is not None:
        known.insert(0, (0.0, Mean(mean=measure.unpruned, stderr=0.0)))
    if known:
        x = 100 * np.array([reached for reached, _ in known])
        points = [point for _, point in known]
        if any(point.stderr is None for point in points):
            points = [Mean(mean=point.mean, stderr=None) for point in points]
        _draw(axes, pens.of(which[0]), which[0], x, points, measure.scale)


def _share_limits(grid: Sequence[Axes], measure: _Measure) -> None:
    """Give all panels one scale, so that repairs compare."""
    lows, highs = zip(*(axes.get_ylim() for axes in grid), strict=True)
    low = min(lows) if measure.unpruned is None else 0
    for axes in grid:
        axes.set_ylim(low, max(highs))


# ---- layerwise robustness -----------------------------------------------------------------------


def _robustness(rows: Sequence[RobustnessRow], pens: _Pens) -> Figure:
    shares = all(curve.right is not None for row in rows for curve in row.curves)
    figure, grid = panels(1 + shares, per_row=2, width=4.0, height=3.6)
    fractions = _fractions(rows)
    for label, of_label in _by_criterion(rows).items():
        area = mean_of(row.area for row in of_label)
        name = label if area is None else f"{label} (area {area.mean:.3g})"
        losses = [_mean_curve(row, fractions, lambda c: c.increase) for row in of_label]
        _draw(grid[0], _without_markers(pens, label), name, 100 * fractions, _means(losses))
        if shares:
            rights = [_mean_curve(row, fractions, lambda c: np.array(c.right)) for row in of_label]
            pen = _without_markers(pens, label)
            _draw(grid[1], pen, label, 100 * fractions, _means(rights), 100)
    for axes, title in zip(grid, ("loss increase", "right predictions (%)"), strict=False):
        axes.set_title(title)
        axes.set_xlabel("units masked in one group at a time (%)")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=min(axes.get_ylim()[0], 0))
    _legend(figure, grid[0])
    return figure


def _robustness_of_groups(rows: Sequence[RobustnessRow], pens: _Pens) -> Figure:
    names = [curve.group for curve in rows[0].curves][:_MOST_PANELS]
    figure, grid = panels(len(names), per_row=_PER_ROW, width=2.6, height=2.2)
    for place, axes in enumerate(grid):
        for label, of_label in _by_criterion(rows).items():
            curves = [row.curves[place] for row in of_label]
            x = 100 * np.array(curves[0].fractions)
            points = _means([curve.increase for curve in curves])
            _draw(axes, _without_markers(pens, label), label, x, points)
        axes.set_title(f"{names[place]} ({rows[0].curves[place].units})", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.supxlabel("units masked (%)", fontsize=9)
    figure.supylabel("loss increase", fontsize=9)
    _legend(figure, grid[0], above=True)
    return figure


def _by_criterion(rows: Sequence[RobustnessRow]) -> dict[str, list[RobustnessRow]]:
    found: dict[str, list[RobustnessRow]] = {}
    for row in rows:
        found.setdefault(row.criterion, []).append(row)
    return found


def _without_markers(pens: _Pens, label: str) -> dict[str, Any]:
    return {**pens.of(label), "marker": ""}


def _fractions(rows: Sequence[RobustnessRow]) -> Scores:
    """Return fractions that all groups reach."""
    return np.linspace(0, min(curve.fractions[-1] for curve in rows[0].curves), _GRID)


def _mean_curve(row: RobustnessRow, at: Scores, pick: Callable[[Curve], Scores]) -> Scores:
    """Return the mean over groups at some fractions, between points on straight lines."""
    curves = [np.interp(at, curve.fractions, pick(curve)) for curve in row.curves]
    mean: Scores = np.mean(curves, 0)
    return mean


def _means(curves: Sequence[Scores]) -> list[Mean]:
    points = [mean_of(column) for column in np.array(curves).T.tolist()]
    return [point for point in points if point is not None]


# ---- oracle -------------------------------------------------------------------------------------


def _oracle(found: Comparison, pens: _Pens) -> Figure:
    shown = found.sets[:_MOST_PANELS]
    figure, grid = panels(len(shown), per_row=2, width=4.4, height=2.4 + 0.16 * len(found.criteria))
    for axes, sets in zip(grid, shown, strict=True):
        rows = [r for r in found.oracle if (r.group, r.removed) == (sets.group, sets.removed)]
        _draw_places(axes, found.criteria, rows, pens)
        heights, edges = np.histogram(sets.losses, bins=40)
        top = len(found.criteria)
        scaled = top / 2 * heights / heights.max()
        axes.stairs(top + scaled, edges, baseline=top, fill=True, color="0.8")
        axes.axhline(top, color="0.6", linewidth=0.6)
        count = len(sets.losses)
        among = f"all {count} sets" if sets.complete else f"{count} random sets"
        axes.set_title(
            f"{sets.group}: {sets.removed} of {sets.units} units\namong {among}",
            fontsize=9,
        )
        axes.set_xlabel("loss without them")
    return figure


def _draw_places(
    axes: Axes, criteria: Sequence[str], rows: Sequence[OracleRow], pens: _Pens
) -> None:
    """Draw one line of dots for each criterion, the first on top."""
    count = len(criteria)
    for place, label in enumerate(criteria):
        height = count - place - 0.5
        losses = [row.loss for row in rows if row.criterion == label]
        pen = pens.of(label)
        axes.plot(
            losses,
            [height] * len(losses),
            color=pen["color"],
            marker=pen["marker"] or "o",
            linestyle="",
            markersize=4,
            alpha=0.8,
        )
    axes.set_yticks([count - place - 0.5 for place in range(count)], labels=list(criteria))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
