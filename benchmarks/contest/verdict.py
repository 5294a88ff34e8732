"""Who ranks well with how much, and whether the targets are met."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.contest.contestants import AUTO, BASELINE, PAPER
from benchmarks.contest.stage import GroupResult, Row

GOOD = 0.95
"""Rank correlation with the reference that is good enough."""

FULL, PARTIAL = f"{PAPER}, full", f"{PAPER}, partial"

_TIMES = {FULL: 20.0, PARTIAL: 5.0}
_EVALUATIONS = 5.0
_NOISE = 2.0
_ONE_RUN = 1.1


@dataclass(frozen=True)
class Target:
    """One thing that was to be reached.

    Args:
        about: What.
        where: Network and group.
        asked: The ratio asked for.
        reached: The ratio reached, None where it was not measured.
        at_least: Whether the true ratio may be larger, because the rival was never good enough.
        met: Whether it is reached; None if that is not known.
    """

    about: str
    where: str
    asked: float
    reached: float | None
    at_least: bool
    met: bool | None


def first_good(rows: Sequence[Row], name: str) -> Row | None:
    """Return a contestant's row of the least budget that ranks well, if one does."""
    good = (row for row in rows if row.name == name and row.spearman >= GOOD)
    return min(good, key=lambda row: row.budget, default=None)


def largest(rows: Sequence[Row], name: str) -> Row | None:
    """Return a contestant's row of the largest budget."""
    return max((row for row in rows if row.name == name), key=lambda r: r.budget, default=None)


def champion(rows: Sequence[Row]) -> str | None:
    """Return who plays for graphprune: ``auto``, or who ranks well soonest where there is none."""
    ours = {row.name for row in rows if row.party == "graphprune"}
    if AUTO in ours:
        return AUTO
    good = [row for name in ours if (row := first_good(rows, name)) is not None]
    return min(good, key=lambda row: row.seconds).name if good else None


def to_time(result: GroupResult) -> list[tuple[str, int]]:
    """Return which runs decide about the targets: contestants and evaluations per unit."""
    ours = champion(result.rows)
    chosen = []
    for name in filter(None, (ours, FULL, PARTIAL)):
        row = first_good(result.rows, name)
        if row is None and name != ours:
            row = largest(result.rows, name)
        chosen += [] if row is None else [(name, row.budget)]
    return chosen


def targets(results: Sequence[GroupResult]) -> list[Target]:
    """Return all targets that the results say something about."""
    return [target for result in results for target in _of_group(result)]


def _of_group(result: GroupResult) -> Iterator[Target]:
    where = f"{result.network} {result.group}"
    ours = champion(result.rows)
    mine = first_good(result.rows, ours) if ours else None
    if result.kind == "interior":
        for name, asked in _TIMES.items():
            yield _faster(result, where, mine, name, asked)
    else:
        yield _fewer(result, where, mine)
    for row in result.rows:
        if row.name == BASELINE:
            yield from _no_worse(result, where, row)


def _faster(result: GroupResult, where: str, mine: Row | None, name: str, asked: float) -> Target:
    about = f"times fewer seconds than {name}, to Spearman {GOOD}"
    theirs = result.measured.get(name)
    own = None if mine is None else result.measured.get(mine.name)
    if theirs is None or own is None:
        return Target(about, where, asked, None, False, None if mine else False)
    never = first_good(result.rows, name) is None
    ratio = theirs / own
    return Target(about, where, asked, ratio, never, ratio >= asked or (None if never else False))


def _fewer(result: GroupResult, where: str, mine: Row | None) -> Target:
    about = f"times fewer evaluations than the published algorithm, to Spearman {GOOD}"
    theirs = first_good(result.rows, FULL) or largest(result.rows, FULL)
    if theirs is None or mine is None:
        return Target(about, where, _EVALUATIONS, None, False, None if mine else False)
    ratio = theirs.evaluations / mine.evaluations
    never = theirs.spearman < GOOD
    met = ratio >= _EVALUATIONS or (None if never else False)
    return Target(about, where, _EVALUATIONS, ratio, never, met)


def _no_worse(result: GroupResult, where: str, baseline: Row) -> Iterator[Target]:
    about = f"error of auto / error of {BASELINE}, at {baseline.budget} evaluations a unit"
    for row in result.rows:
        if row.name == AUTO and row.budget == baseline.budget:
            met = row.error - baseline.error <= _noise(row, baseline)
            yield Target(about, where, 1.0, row.error / baseline.error, False, met)


def _noise(row: Row, baseline: Row) -> float:
    """Return by how much two errors may differ by chance."""
    spread = (row.error_stderr**2 + baseline.error_stderr**2) ** 0.5
    return _NOISE * spread if spread else (_ONE_RUN - 1) * baseline.error
