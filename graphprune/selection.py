"""Selection: from a ranking and a budget to the units that go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphprune.coalition import removed_entries
from graphprune.cost import Cost, CostModel
from graphprune.errors import BudgetError, OptionError
from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import PruningGroup
from graphprune.ranking import Ranking, Scores

COSTS = ("units", "params", "macs")
SCOPES = ("group", "global")


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """What a plan does to one group.

    Args:
        name: The group.
        units: How many units it had.
        removed_units: Those that go, ascending.
    """

    name: str
    units: int
    removed_units: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PruningPlan:
    """The units that go, and what that saves.

    Args:
        groups: All groups, group by group in the graph's order.
        removed: Parameter or buffer name -> dim -> indices that go, ascending.
        of: The cost that the ratio is a fraction of: ``units``, ``params`` or ``macs``.
        scope: ``group`` (the same fraction of every group) or ``global`` (one ranking of all).
        asked: The ratio asked for.
        reached: The ratio reached, of the same cost.
        before: Costs of the whole network.
        after: Costs of what remains.
        criterion: What ranked the units.
        seed: The ranking's seed.
    """

    groups: tuple[PlannedGroup, ...]
    removed: Mapping[str, Mapping[int, tuple[int, ...]]]
    of: str
    scope: str
    asked: float
    reached: float
    before: Cost
    after: Cost
    criterion: str
    seed: int = 0

    def kept(self, graph: DependencyGraph) -> Kept:
        """Return the plan as a coalition of the graph's units, (n_units,) Bool.

        Raises:
            OptionError: The plan was made for another network.
        """
        expected = [(group.name, group.n_units) for group in graph.groups]
        if [(group.name, group.units) for group in self.groups] != expected:
            raise OptionError(
                "the plan was made for another network: its groups differ",
                hint="rank and select again for this one",
            )
        kept = graph.all_kept()
        for group, planned in zip(graph.groups, self.groups, strict=True):
            kept[group.first + np.array(planned.removed_units, np.int64)] = False
        return kept


def select(
    ranking: Ranking,
    *,
    ratio: float,
    of: str = "units",
    scope: str = "group",
    min_units: int = 1,
    round_to: int = 1,
) -> PruningPlan:
    """Choose the units that go.

    With ``scope="group"`` the same fraction of every group goes, lowest scores first; where the
    budget is of parameters or multiply-accumulates, the smallest fraction that reaches it. With
    ``scope="global"`` all units compete by score per cost until the budget is reached.

    Args:
        ranking: Scores, higher = keep.
        ratio: Fraction of the cost to remove, in [0, 1).
        of: ``units``, ``params`` or ``macs``.
        scope: ``group`` or ``global``.
        min_units: Units that every group keeps at least.
        round_to: Keep a multiple of this many units per group, where the group has as many.

    Raises:
        OptionError: An option is not one of those allowed.
        BudgetError: So much cannot be removed; the message says how much can.
    """
    _check_options(ratio, of, scope, min_units, round_to)
    chooser = _Chooser(ranking, of, min_units, round_to)
    kept = chooser.by_group(ratio) if scope == "group" else chooser.globally(ratio)
    return make_plan(ranking, kept, ratio=ratio, of=of, scope=scope, costs=chooser.costs)


def make_plan(
    ranking: Ranking, kept: Kept, *, ratio: float, of: str, scope: str, costs: CostModel
) -> PruningPlan:
    """Describe a coalition as a plan."""
    graph = ranking.graph
    before, after = costs.total(graph.all_kept()), costs.total(kept)
    return PruningPlan(
        groups=tuple(
            PlannedGroup(
                group.name,
                group.n_units,
                tuple(int(k) for k in np.flatnonzero(~kept[group.span])),
            )
            for group in graph.groups
        ),
        removed=removed_entries(graph, kept),
        of=of,
        scope=scope,
        asked=ratio,
        reached=_removed_fraction(before, after, of),
        before=before,
        after=after,
        criterion=ranking.criterion,
        seed=ranking.seed,
    )


def _removed_fraction(before: Cost, after: Cost, of: str) -> float:
    whole = before.of(of)
    return 1.0 - after.of(of) / whole if whole else 0.0


def _check_options(ratio: float, of: str, scope: str, min_units: int, round_to: int) -> None:
    if not 0 <= ratio < 1:
        raise OptionError(
            f"a ratio of {ratio:g} is outside [0, 1)",
            hint="the ratio is the fraction to remove, e.g. 0.3",
        )
    for name, given, allowed in (("of", of, COSTS), ("scope", scope, SCOPES)):
        if given not in allowed:
            raise OptionError(f"{name} {given!r} is none of {', '.join(allowed)}")
    for name, count in (("min_units", min_units), ("round_to", round_to)):
        if count < 1:
            raise OptionError(f"{name} {count} is less than 1", hint="give a positive number")


class _Chooser:
    def __init__(self, ranking: Ranking, of: str, min_units: int, round_to: int) -> None:
        self._graph = ranking.graph
        self._scores = ranking.scores
        self._of = of
        self._min_units = min_units
        self._round_to = round_to
        self._protected = frozenset(ranking.protected)
        self.costs = CostModel(ranking.graph)
        self._before = self.costs.total(self._graph.all_kept())
        if not self._graph.n_units:
            raise BudgetError(
                "the network has no prunable unit",
                hint="`graphprune inspect MODEL` says what pins every axis",
            )

    # ---- the same fraction of every group -------------------------------------------------------

    def by_group(self, ratio: float) -> Kept:
        orders = [
            (group.first + np.argsort(self._scores[group.span], kind="stable"), self._floor(group))
            for group in self._graph.groups
        ]

        def keep(fraction: float) -> Kept:
            kept = self._graph.all_kept()
            for order, floor in orders:
                count = min(int(fraction * order.size + 0.5), order.size - floor)
                kept[order[: max(count, 0)]] = False
            return self._repaired(kept)

        self._check_reachable(ratio, keep(1.0))
        if self._of == "units":
            return keep(ratio)
        fractions = np.unique(
            [(k + 0.5) / order.size for order, _ in orders for k in range(order.size)]
        )
        return self._smallest(ratio, fractions.size, lambda k: keep(fractions[k - 1] if k else 0.0))

    # ---- one ranking of all units ---------------------------------------------------------------

    def globally(self, ratio: float) -> Kept:
        sequence = self._removal_sequence()

        def keep(count: int) -> Kept:
            kept = self._graph.all_kept()
            kept[sequence[:count]] = False
            return self._repaired(kept)

        self._check_reachable(ratio, keep(sequence.size))
        return self._smallest(ratio, sequence.size, keep)

    def _removal_sequence(self) -> npt.NDArray[np.int64]:
        """All units that can go together, by score per cost; the rest keeps every axis alive."""
        graph = self._graph
        limits = [
            (np.arange(group.first, group.first + group.n_units), self._floor(group))
            for group in graph.groups
        ]
        limits += [(needed, 1) for needed in graph.needed]
        left = np.array([units.size - floor for units, floor in limits])
        sets_of: list[list[int]] = [[] for _ in range(graph.n_units)]
        for place, (units, _) in enumerate(limits):
            for unit in units.tolist():
                sets_of[unit].append(place)
        sequence = []
        for unit in np.argsort(self._value_per_cost(), kind="stable").tolist():
            if all(left[place] > 0 for place in sets_of[unit]):
                left[sets_of[unit]] -= 1
                sequence.append(unit)
        return np.array(sequence, np.int64)

    def _value_per_cost(self) -> Scores:
        cost = self.costs.marginal(self._of)
        cost = np.maximum(cost / max(cost.mean(), 1e-300), 1e-12)
        # A harmful unit (score below zero) is the better to remove the more it costs.
        return np.where(self._scores > 0, self._scores / cost, self._scores * cost)

    # ---- shared ---------------------------------------------------------------------------------

    def _floor(self, group: PruningGroup) -> int:
        """How many units of a group must stay."""
        if group.name in self._protected:
            return group.n_units
        return min(self._min_units, group.n_units)

    def _repaired(self, kept: Kept) -> Kept:
        """Bring back the best units where an axis would be empty or a width is no multiple."""
        for needed in self._graph.needed:
            if not kept[needed].any():
                kept[needed[np.argmax(self._scores[needed])]] = True
        if self._round_to > 1:
            for group in self._graph.groups:
                self._round_up(kept, group.span)
        return kept

    def _round_up(self, kept: Kept, span: slice) -> None:
        width = kept[span].size
        missing = -int(np.count_nonzero(kept[span])) % self._round_to
        gone = span.start + np.flatnonzero(~kept[span])
        best = gone[np.argsort(-self._scores[gone], kind="stable")]
        kept[best[: missing if width >= self._round_to else width]] = True

    def _reached(self, kept: Kept) -> float:
        return _removed_fraction(self._before, self.costs.total(kept), self._of)

    def _check_reachable(self, ratio: float, most: Kept) -> None:
        reachable = self._reached(most)
        if ratio > reachable:
            raise BudgetError(
                f"removing {ratio:.1%} of the {self._of} is not reachable: "
                f"at most {reachable:.1%} can go",
                hint="ask for less, allow narrower groups (--min-units) or unpin more axes",
            )

    def _smallest(self, ratio: float, most: int, keep: Callable[[int], Kept]) -> Kept:
        """The first of the nested choices 0..most that removes the ratio asked for."""
        low, high = 0, most
        while low < high:
            middle = (low + high) // 2
            if self._reached(keep(middle)) >= ratio:
                high = middle
            else:
                low = middle + 1
        return keep(low)
