"""Results as tables: for terminals and for Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.contest.contestants import AUTO
from benchmarks.contest.stage import GroupResult, Row
from benchmarks.contest.verdict import GOOD, first_good, targets

_WIDTH = 160


@dataclass(frozen=True)
class Table:
    """Text in rows and columns.

    Args:
        title: What it shows.
        head: One cell a column.
        body: As many cells in every row.
    """

    title: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]


def tables(results: Sequence[GroupResult]) -> list[Table]:
    """Return everything there is to show."""
    shown = [table for result in results for table in (_errors(result), _costs(result))]
    return [*shown, _targets(results)]


def markdown(shown: Sequence[Table]) -> str:
    """Return tables as Markdown."""
    blocks = []
    for table in shown:
        lines = [table.head, tuple("---" for _ in table.head), *table.body]
        text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        blocks.append(f"**{table.title}**\n\n{text}\n")
    return "\n".join(blocks)


def show(shown: Sequence[Table]) -> None:
    """Print tables to a terminal."""
    from rich.console import Console
    from rich.table import Table as RichTable

    # Into a file or a pipe, tables are as wide as they are.
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    for table in shown:
        rich = RichTable(*table.head, title=table.title, title_justify="left")
        for cells in table.body:
            rich.add_row(*cells)
        console.print(rich)


def _errors(result: GroupResult) -> Table:
    """Return how good everyone is by budget."""
    budgets = sorted({row.budget for row in result.rows})
    title = (
        f"{result.network} {result.group}: {result.kind} of {result.n_units} units; by "
        f"evaluations a unit: relative squared error · Spearman · overlap of the lowest 30 % "
        f"(the reference's own error is {result.floor:.2g})"
    )
    names = dict.fromkeys(row.name for row in result.rows if not row.name.endswith("partial"))
    cells = {
        (row.name, row.budget): f"{row.error:.2g} · {row.spearman:.2f} · {row.overlap:.0%}"
        for row in result.rows
    }
    body = [
        (
            _label(name, result).removesuffix(", full"),
            *(cells.get((name, budget), "-") for budget in budgets),
        )
        for name in names
    ]
    return Table(title, ("", *(f"{budget}" for budget in budgets)), tuple(body))


def _label(name: str, result: GroupResult) -> str:
    return f"{AUTO} ({result.auto})" if name == AUTO else name


def _costs(result: GroupResult) -> Table:
    """Return what each contestant needs to rank well."""
    title = f"{result.network} {result.group}: to Spearman {GOOD}"
    head = (
        "",
        "evaluations",
        "a unit",
        "seconds",
        "lowest 30 %",
        "magnitudes: error",
        "lowest 30 %",
    )
    body = []
    for name in dict.fromkeys(row.name for row in result.rows):
        row = first_good(result.rows, name)
        body.append((_label(name, result), *(["-"] * 6 if row is None else _cost(row, result))))
    return Table(title, head, tuple(body))


def _cost(row: Row, result: GroupResult) -> Iterator[str]:
    yield f"{row.evaluations:.0f}"
    yield f"{row.budget}"
    measured = result.measured.get(row.name)
    yield f"{row.seconds:.2f}" + ("" if measured is None else f" (measured {measured:.2f})")
    yield f"{row.overlap:.0%}"
    yield "-" if row.score_error is None else f"{row.score_error:.3g}"
    yield "-" if row.score_overlap is None else f"{row.score_overlap:.0%}"


def _targets(results: Sequence[GroupResult]) -> Table:
    body = []
    for target in targets(results):
        reached = "-" if target.reached is None else f"{target.reached:.3g}"
        sign = "> " if target.at_least else ""
        met = {True: "met", False: "not met", None: "open"}[target.met]
        body.append((target.where, target.about, f"{target.asked:g}", sign + reached, met))
    return Table("Targets", ("where", "what", "asked", "reached", ""), tuple(body))
