"""What a comparison finds: rows for every criterion, seed, ratio and repair."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from graphprune.comparison.oracle import OracleRank, SetsOfUnits
from graphprune.comparison.questions import Conditions, Questions
from graphprune.comparison.robustness import Curve, Robustness
from graphprune.fidelity import Fidelity
from graphprune.selection import PruningPlan

Row = TypeVar("Row", "Trial", "Cell", "RobustnessRow", "OracleRow")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How one criterion ranked with one seed.

    Args:
        criterion: The contestant's label.
        seed: The seed.
        seconds: What ranking took.
        evaluations: Coalitions evaluated, each on all images drawn.
        notes: What the user should know of how the scores came about.
        ranking: Its file in the folder ``rankings``; '' where none was written.
        sha256: Hash of that file.
        source: Hash of the files that define a criterion of the user's own, else ''.
    """

    criterion: str
    seed: int
    seconds: float
    evaluations: int
    notes: tuple[str, ...]
    ranking: str = ""
    sha256: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One pruned network, judged on images that neither ranked nor repaired.

    Args:
        criterion: The contestant's label.
        seed: The seed.
        repair: The repair asked for.
        repaired: What repaired it in the end: ``auto`` chooses, and a repair that does not bring
            the network nearer is not kept.
        asked: The ratio asked for.
        reached: The ratio reached, of the same cost.
        units: Share of the units that went.
        params: Share of the parameters.
        macs: Share of the multiply-accumulates.
        accuracy: Share of images whose most likely class is the label; None without labels.
        agreement: Share with the unpruned network's most likely class; None for one output.
        kl: Mean divergence from the unpruned network in nats; None where outputs are not finite.
        kl_stderr: Its standard error over the images.
        seconds: What cutting and repairing took.
    """

    criterion: str
    seed: int
    repair: str
    repaired: str
    asked: float
    reached: float
    units: float
    params: float
    macs: float
    accuracy: float | None
    agreement: float | None
    kl: float | None
    kl_stderr: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RobustnessRow:
    """Layerwise robustness of one ranking, see :mod:`graphprune.comparison.robustness`.

    Args:
        criterion: The contestant's label.
        seed: The seed.
        area: Mean over groups of the area under the loss increase.
        per_unit: Mean over groups of the loss increase per unit.
        curves: The curves, group by group.
    """

    criterion: str
    seed: int
    area: float
    per_unit: float
    curves: tuple[Curve, ...]


@dataclass(frozen=True, kw_only=True)
class OracleRow:
    """Where the set that one ranking removes stands, see :mod:`graphprune.comparison.oracle`.

    Args:
        criterion: The contestant's label.
        seed: The seed.
        group: The group.
        removed: Units in the set.
        loss: What the network loses without it.
        share_better: Share of the sets measured that lose less.
        gap: Loss above the best set's, as a share of the mean set's above it.
    """

    criterion: str
    seed: int
    group: str
    removed: int
    loss: float
    share_better: float
    gap: float


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over seeds.

    Args:
        mean: The mean.
        stderr: Its standard error; None for a single seed.
    """

    mean: float
    stderr: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Cells of all seeds together.

    Args:
        criterion: The contestant's label.
        repair: What repaired the networks.
        asked: The ratio asked for.
        n_seeds: How many seeds.
        reached: Mean ratio reached, of the same cost.
        macs: Mean share of multiply-accumulates that went.
        accuracy: Over the seeds; None without labels.
        agreement: Over the seeds; None for networks of one output.
        kl: Over the seeds; None where outputs are not finite.
    """

    criterion: str
    repair: str
    asked: float
    n_seeds: int
    reached: float
    macs: float
    accuracy: Mean | None
    agreement: Mean | None
    kl: Mean | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Criteria side by side.

    Args:
        conditions: What every figure depends on.
        unpruned: The unpruned network on the judging images.
        trials: How criteria ranked, one row for each seed.
        cells: Pruned networks, one row for each criterion, seed, repair and ratio.
        robustness: Layerwise robustness, where it was asked for.
        sets: The sets that removed sets are placed among, where that was asked for.
        oracle: Where they stand.
        notes: What the user should know, such as what could not be compared.
        complete: Everything asked for is there.
    """

    conditions: Conditions
    unpruned: Fidelity
    trials: tuple[Trial, ...] = ()
    cells: tuple[Cell, ...] = ()
    robustness: tuple[RobustnessRow, ...] = ()
    sets: tuple[SetsOfUnits, ...] = ()
    oracle: tuple[OracleRow, ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = False

    @property
    def criteria(self) -> tuple[str, ...]:
        """Labels of all contestants."""
        return tuple(dict.fromkeys(row.criterion for row in self.trials))

    @property
    def repairs(self) -> tuple[str, ...]:
        """The repairs that were tried."""
        return tuple(dict.fromkeys(cell.repair for cell in self.cells))

    @property
    def ratios(self) -> tuple[float, ...]:
        """The ratios asked for, ascending."""
        return tuple(sorted({cell.asked for cell in self.cells}))

    @property
    def summary(self) -> tuple[Summary, ...]:
        """Cells of all seeds together, in the order of criteria, repairs and ratios."""
        found: dict[tuple[str, str, float], list[Cell]] = {}
        for cell in self.cells:
            found.setdefault((cell.criterion, cell.repair, cell.asked), []).append(cell)
        return tuple(_summary(cells) for cells in found.values())

    def of(self, criterion: str, repair: str, asked: float) -> Summary | None:
        """Return the summary of one criterion, repair and ratio; None if there are no cells."""
        for row in self.summary:
            if (row.criterion, row.repair, row.asked) == (criterion, repair, asked):
                return row
        return None


def cell_of(
    trial: Trial,
    repair: tuple[str, str],
    plan: PruningPlan,
    fidelity: Fidelity,
    seconds: float,
) -> Cell:
    """Describe one pruned network; of the repair, what was asked for and what was done."""

    def gone(cost: str) -> float:
        before = plan.before.of(cost)
        return 1 - plan.after.of(cost) / before if before else 0.0

    finite = math.isfinite(fidelity.kl)
    return Cell(
        criterion=trial.criterion,
        seed=trial.seed,
        repair=repair[0],
        repaired=repair[1],
        asked=plan.asked,
        reached=plan.reached,
        units=gone("units"),
        params=gone("params"),
        macs=gone("macs"),
        accuracy=fidelity.accuracy,
        agreement=fidelity.agreement,
        kl=fidelity.kl if finite else None,
        kl_stderr=fidelity.kl_stderr if finite else None,
        seconds=round(seconds, 3),
    )


def robustness_row(trial: Trial, found: Robustness) -> RobustnessRow:
    """Describe the robustness of one ranking."""
    return RobustnessRow(
        criterion=trial.criterion,
        seed=trial.seed,
        area=found.area,
        per_unit=found.per_unit,
        curves=found.curves,
    )


def oracle_row(trial: Trial, found: OracleRank) -> OracleRow:
    """Describe the place of one ranking's set."""
    return OracleRow(
        criterion=trial.criterion,
        seed=trial.seed,
        group=found.sets.group,
        removed=found.sets.removed,
        loss=found.loss,
        share_better=found.share_better,
        gap=found.gap,
    )


def ordered(found: Comparison, questions: Questions) -> Comparison:
    """Return the rows in the order in which they were asked for, those of earlier runs last."""
    labels = [each.label for each in questions.contestants]
    order = {label: place for place, label in enumerate(dict.fromkeys([*labels, *found.criteria]))}
    methods = {name: place for place, name in enumerate([*questions.repairs, *found.repairs][::-1])}

    def first(rows: Sequence[Row]) -> list[Row]:
        return sorted(rows, key=lambda row: (order[row.criterion], row.seed))

    cells = sorted(
        found.cells, key=lambda c: (order[c.criterion], -methods[c.repair], c.asked, c.seed)
    )
    return replace(
        found,
        trials=tuple(first(found.trials)),
        cells=tuple(cells),
        robustness=tuple(first(found.robustness)),
        oracle=tuple(first(found.oracle)),
    )


def mean_of(values: Iterable[float | None]) -> Mean | None:
    """Return the mean and its standard error; None if a value is missing."""
    listed = list(values)
    known = np.array([value for value in listed if value is not None])
    if not listed or known.size < len(listed):
        return None
    error = float(known.std(ddof=1)) / math.sqrt(known.size) if known.size > 1 else None
    return Mean(mean=float(known.mean()), stderr=error)


def _summary(cells: Sequence[Cell]) -> Summary:
    first = cells[0]
    return Summary(
        criterion=first.criterion,
        repair=first.repair,
        asked=first.asked,
        n_seeds=len(cells),
        reached=float(np.mean([cell.reached for cell in cells])),
        macs=float(np.mean([cell.macs for cell in cells])),
        accuracy=mean_of(cell.accuracy for cell in cells),
        agreement=mean_of(cell.agreement for cell in cells),
        kl=mean_of(cell.kl for cell in cells),
    )
