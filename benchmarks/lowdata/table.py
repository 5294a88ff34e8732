"""Cells as tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.contest.table import Table
from benchmarks.lowdata.cells import Cell
from benchmarks.lowdata.verdict import Column, Entry, best, columns, difference, entries, verdicts


def tables(cells: Sequence[Cell]) -> list[Table]:
    """Return everything there is to show: a table for each network, then the verdicts."""
    networks = dict.fromkeys(cell.network for cell in cells)
    return [*(_network(name, cells) for name in networks), _verdicts(cells), *_failures(cells)]


def _network(name: str, cells: Sequence[Cell]) -> Table:
    own = [cell for cell in cells if cell.network == name]
    whole = next((cell.test for cell in own if not cell.ratio), float("nan"))
    repairs = list(dict.fromkeys(cell.repair for cell in own))
    shown = sorted(columns(own), key=lambda each: (repairs.index(each.repair), each.ratio))
    by_column = {column: entries(own, column) for column in shown}
    body = []
    for contender in dict.fromkeys(cell.contender for cell in own if cell.ratio):
        seconds = [c.seconds for c in own if c.contender == contender and not c.error]
        row = [contender, f"{np.mean(seconds):.0f}" if seconds else "-"]
        body.append((*row, *(_cell(contender, by_column[column]) for column in shown)))
    seeds = len({cell.seed for cell in own if cell.ratio})
    title = (
        f"{name}: accuracy in % (unpruned {whole:.1%}) by repair and share of macs removed; means "
        f"of {seeds} draws of calibration images; * within one standard error of the best"
    )
    return Table(title, ("", "seconds", *map(_head, shown)), tuple(body))


def _head(column: Column) -> str:
    return f"{column.repair} {column.ratio:.0%}"


def _cell(contender: str, among: Sequence[Entry]) -> str:
    found = next((entry for entry in among if entry.contender == contender), None)
    if found is None:
        return "-"
    leads = found is best(among) or difference(found, best(among)).ties
    return f"{100 * found.test:.1f}" + ("*" if leads else "")


def _verdicts(cells: Sequence[Cell]) -> Table:
    head = ("", "repair", "macs", "shapley", "best one-shot without a game", "ahead by", "", "")
    body = []
    for verdict in verdicts(cells):
        column = verdict.column
        body.append(
            (
                column.network,
                column.repair,
                f"{column.ratio:.0%}",
                f"{100 * verdict.shapley.test:.1f}",
                _named(verdict.once),
                _ahead(verdict.shapley, verdict.once),
                _named(verdict.again),
                _ahead(verdict.shapley, verdict.again),
            )
        )
    head = (*head[:6], "iterated, steps by selection images", "ahead by")
    return Table("Where shapley stands, in points of accuracy", head, tuple(body))


def _named(entry: Entry | None) -> str:
    return "-" if entry is None else f"{entry.contender}: {100 * entry.test:.1f}"


def _ahead(entry: Entry, other: Entry | None) -> str:
    if other is None:
        return "-"
    found = difference(entry, other)
    return f"{100 * found.mean:+.1f} ± {100 * found.stderr:.1f}"


def _failures(cells: Sequence[Cell]) -> list[Table]:
    failed = dict.fromkeys((c.network, c.contender, c.error) for c in cells if c.error)
    return [Table("No figure", ("", "", "why"), tuple(failed))] if failed else []
