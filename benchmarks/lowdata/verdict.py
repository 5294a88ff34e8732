"""Who is better than whom, on the same test images and the same draws of calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.lowdata.cells import Cell
from benchmarks.lowdata.contenders import SHAPLEY


@dataclass(frozen=True)
class Column:
    """A network, a ratio and a repair: cells that may be compared."""

    network: str
    ratio: float
    repair: str


@dataclass(frozen=True)
class Entry:
    """One contender in one column.

    Args:
        contender: Its name.
        cells: By seed, without those that failed.
    """

    contender: str
    cells: tuple[Cell, ...]

    @property
    def test(self) -> float:
        """Mean share of test images classified rightly."""
        return float(np.mean([cell.test for cell in self.cells]))

    @property
    def selection(self) -> float:
        """Mean share of selection images classified rightly."""
        return float(np.mean([cell.selection for cell in self.cells]))

    @property
    def plays(self) -> bool:
        """Whether it is the default criterion, in one step or in several."""
        return self.contender.partition(",")[0] == SHAPLEY

    @property
    def iterated(self) -> bool:
        """Whether it ranks several times."""
        return self.contender.endswith(" steps")


@dataclass(frozen=True)
class Difference:
    """How much better one is than another.

    Args:
        mean: Difference of shares classified rightly.
        stderr: Its standard error: images and draws of calibration images both vary.
    """

    mean: float
    stderr: float

    @property
    def ties(self) -> bool:
        """Whether it is at least minus one standard error."""
        return self.mean >= -self.stderr


def columns(cells: Iterable[Cell]) -> list[Column]:
    """Return all columns, in the order in which they were measured."""
    return list(dict.fromkeys(Column(c.network, c.ratio, c.repair) for c in cells if c.ratio))


def entries(cells: Iterable[Cell], column: Column) -> list[Entry]:
    """Return the contenders of a column that have figures."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if Column(cell.network, cell.ratio, cell.repair) == column and not cell.error:
            found.setdefault(cell.contender, []).append(cell)
    return [Entry(name, tuple(own)) for name, own in found.items()]


def difference(one: Entry, other: Entry) -> Difference:
    """Compare on the seeds that both have."""
    theirs = {cell.seed: cell for cell in other.cells}
    paired = [(cell, theirs[cell.seed]) for cell in one.cells if cell.seed in theirs]
    found = np.stack([ours.right() - others.right() for ours, others in paired])
    by_image, by_seed = found.mean(0), found.mean(1)
    variance = by_image.var(ddof=1) / len(by_image)
    if len(by_seed) > 1:
        variance += by_seed.var(ddof=1) / len(by_seed)
    return Difference(float(found.mean()), float(np.sqrt(variance)))


def best(among: Sequence[Entry]) -> Entry:
    """Return the best on test images."""
    return max(among, key=lambda entry: entry.test)


def control(among: Sequence[Entry]) -> Entry | None:
    """Return the iterated control whose number of steps selection images choose."""
    iterated = [entry for entry in among if entry.iterated]
    return max(iterated, key=lambda entry: entry.selection) if iterated else None


@dataclass(frozen=True)
class Verdict:
    """Where the default criterion stands in one column.

    Args:
        column: Which.
        shapley: Its entry.
        once: The best criterion without a game that ranks once.
        again: The iterated control.
    """

    column: Column
    shapley: Entry
    once: Entry
    again: Entry | None


def verdicts(cells: Sequence[Cell]) -> list[Verdict]:
    """Return where the default criterion stands, column by column."""
    found = []
    for column in columns(cells):
        listed = {entry.contender: entry for entry in entries(cells, column)}
        shapley = listed.pop(SHAPLEY, None)
        others = [entry for entry in listed.values() if not entry.plays]
        once = [entry for entry in others if not entry.iterated]
        if shapley is not None and once:
            found.append(Verdict(column, shapley, best(once), control(others)))
    return found
