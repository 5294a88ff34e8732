"""Plots of a run, as files: scores with their standard errors, widths, and the network drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphprune.artifacts import PlanFile, PlannedGroupRecord, RankedGroup, RankingFile
from graphprune.figures import COLOURS, check_plots, panels, write_figures
from graphprune.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KEPT, _REMOVED = COLOURS[0], COLOURS[1]
_MOST_PANELS, _PER_ROW = 32, 4
_ROW = 0.22
"""Height of a group's bar in inches."""


def write_run_plots(
    plan: PlanFile, ranking: RankingFile, network: str, folder: Path, kind: str
) -> tuple[Path, ...]:
    """Draw what a run ranked and removed.

    Args:
        plan: What was removed.
        ranking: The scores it was removed by, of the same groups.
        network: The network, drawn as SVG text; written as such whatever the kind.
        folder: Where ``scores``, ``widths`` and ``network.svg`` go.
        kind: ``svg``, ``png`` or ``none``.

    Returns:
        The files written.

    Raises:
        OptionError: The kind is unknown.
        ArtifactError: The folder cannot be written to.
    """
    check_plots(kind)
    if kind == "none" or not plan.groups:
        return ()
    paths = write_figures(_figures(plan, ranking), folder, kind)
    drawn = folder / "network.svg"
    write_text(drawn, network)
    return (*paths, drawn)


def _figures(plan: PlanFile, ranking: RankingFile) -> Iterator[tuple[str, Figure]]:
    yield "scores", _scores(plan, ranking)
    yield "widths", _widths(plan)


def _scores(plan: PlanFile, ranking: RankingFile) -> Figure:
    shown = list(zip(plan.groups, ranking.groups, strict=True))[:_MOST_PANELS]
    figure, grid = panels(len(shown), per_row=_PER_ROW, width=2.6, height=2.2)
    for axes, (planned, scored) in zip(grid, shown, strict=True):
        _draw_scores(axes, planned, scored)
    figure.supxlabel("units by score", fontsize=9)
    figure.supylabel("score, with one standard error", fontsize=9)
    return figure


def _draw_scores(axes: Axes, planned: PlannedGroupRecord, scored: RankedGroup) -> None:
    scores, errors = np.array(scored.scores), np.array(scored.stderr)
    gone = np.zeros(planned.units, bool)
    gone[list(planned.removed_units)] = True
    order = np.argsort(scores, kind="stable")
    for colour, which in ((_KEPT, ~gone[order]), (_REMOVED, gone[order])):
        places = np.flatnonzero(which)
        units = order[places]
        axes.errorbar(
            places,
            scores[units],
            errors[units],
            fmt="o",
            color=colour,
            markersize=2.5,
            elinewidth=0.8,
        )
    axes.set_title(f"{planned.name}: {gone.sum()} of {planned.units} removed", fontsize=8)
    axes.tick_params(labelsize=7)


def _widths(plan: PlanFile) -> Figure:
    groups = plan.groups
    figure, (axes,) = panels(1, per_row=1, width=6.5, height=0.9 + _ROW * len(groups))
    names = [group.name for group in groups]
    before = np.array([group.units for group in groups])
    after = before - np.array([len(group.removed_units) for group in groups])
    places = np.arange(len(groups))
    axes.barh(places, before, color=_REMOVED, label="removed")
    axes.barh(places, after, color=_KEPT, label="kept")
    axes.set_yticks(places, names, fontsize=7)
    axes.set_ylim(len(groups) - 0.4, -0.6)  # in network order from the top
    axes.set_xlabel("units")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper right", ncols=2)
    return figure
