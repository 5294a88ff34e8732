"""Selection: from a ranking and a budget to the units that go."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from graphprune.coalition import removed_entries, removed_outputs
from graphprune.cost import Cost, CostModel, LatencyModel
from graphprune.errors import BudgetError, OptionError
from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import PruningGroup
from graphprune.ranking import Ranking, Scores

COSTS = ("units", "params", "macs", "latency")
SCOPES = ("group", "global")
AUTO = "auto"
"""The scope that :attr:`Budget.chosen_scope` chooses."""

SHARE_KEPT_LONGEST = 0.2
"""Share of every group that goes last where all units compete.

One score per unit does not know that the last channels of a layer carry all that passes through it.
Without a floor a global ranking at 70 % of the multiply-accumulates leaves layers of one channel.
It yields where the budget cannot be reached otherwise.
"""

Units = npt.NDArray[np.int64]
"""Numbers of units, counted over the whole network."""

_PRICINGS = 16
"""Costs of units are looked at again whenever so large a part of the whole cost has gone."""

_ROUNDING = 1e-9
"""A ratio that is missed by less is reached: fractions are sums of floats."""


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
class Budget:
    """How much goes and how units compete, see :func:`select`."""

    ratio: float
    of: str = "units"
    scope: str | None = None
    min_units: int = 1
    round_to: int = 1
    latency: LatencyModel | None = None

    @property
    def chosen_scope(self) -> str:
        """The scope that ``auto`` (or None) stands for; any other as it is.

        The same fraction of every group is what a user who counts units expects; a budget of a
        cost is met best by whichever units are worth least for it.
        """
        if self.scope is not None and self.scope != AUTO:
            return self.scope
        return "group" if self.of == "units" else "global"


@dataclass(frozen=True, kw_only=True)
class PruningPlan:
    """The units that go, and what that saves.

    Args:
        groups: All groups, group by group in the graph's order.
        removed: Parameter or buffer name -> dim -> indices that go, ascending.
        of: The cost that the ratio is of: ``units``, ``params``, ``macs`` or ``latency``.
        scope: ``group`` (the same fraction of every group) or ``global`` (one ranking of all).
        asked: The ratio asked for.
        reached: The ratio reached, of the same cost.
        before: Costs of the whole network.
        after: Costs of what remains.
        criterion: What ranked the units.
        seed: The ranking's seed.
        removed_outputs: Of outputs that may shrink (see :func:`graphprune.trace`), by name and
            dim, the indices that go, ascending.
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
    removed_outputs: Mapping[str, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)

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
    scope: str | None = None,
    min_units: int = 1,
    round_to: int = 1,
    latency: LatencyModel | None = None,
) -> PruningPlan:
    """Choose the units that go.

    With ``scope="group"`` the same fraction of every group goes, lowest scores first: of units, to
    the nearest whole number in every group; of parameters or multiply-accumulates, or where widths
    are rounded, the smallest fraction that reaches the budget. With ``scope="global"`` all units
    compete by score per cost, at the mean of what a unit costs in the whole network and in what is
    left of it by then, until the budget is reached; a fifth of every group goes last, so that
    no layer collapses while others can give. No axis of any tensor is emptied. A larger ratio
    removes what a smaller one does, and more. A ratio of the latency is one of what the model
    predicts, and widths are those that run fast, as the model has found them.

    Args:
        ranking: Scores, higher = keep.
        ratio: Fraction of the cost to remove, in [0, 1).
        of: ``units``, ``params``, ``macs`` or ``latency``.
        scope: ``group`` or ``global``; None or ``auto`` is ``group`` for a ratio of units and
            ``global`` for one of any other cost.
        min_units: Units that every group keeps at least.
        round_to: Keep a multiple of this many units of every group that loses any; groups of fewer
            units lose none.
        latency: How long the network takes, see :func:`graphprune.latency_model`; needed for a
            ratio of the latency, else only recorded in the costs.

    Raises:
        OptionError: An option is not one of those allowed.
        BudgetError: So much cannot be removed; the message says how much can.
    """
    budget = Budget(
        ratio=ratio,
        of=of,
        scope=scope,
        min_units=min_units,
        round_to=round_to,
        latency=latency,
    )
    return select_within(ranking, budget)


def select_within(
    ranking: Ranking, budget: Budget, gone: Kept | None = None, locked: Kept | None = None
) -> PruningPlan:
    """Choose the units that go, some of which are settled.

    Args:
        ranking: Scores of all units, higher = keep.
        budget: How much goes, of the whole network.
        gone: Units that go whatever they score, (n_units,) Bool.
        locked: Units that stay whatever they score.

    Raises:
        OptionError: An option is not one of those allowed.
        BudgetError: So much cannot be removed.
    """
    check_modelled(budget)
    chooser = _Chooser(ranking, budget, gone, locked)
    group = budget.chosen_scope == "group"
    kept = chooser.by_group(budget.ratio) if group else chooser.globally(budget.ratio)
    return make_plan(ranking, kept, budget, costs=chooser.costs)


def make_plan(ranking: Ranking, kept: Kept, budget: Budget, *, costs: CostModel) -> PruningPlan:
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
        removed_outputs=removed_outputs(graph, kept),
        of=budget.of,
        scope=budget.chosen_scope,
        asked=budget.ratio,
        reached=_removed_fraction(before, after, budget.of),
        before=before,
        after=after,
        criterion=ranking.criterion,
        seed=ranking.seed,
    )


def _removed_fraction(before: Cost, after: Cost, of: str) -> float:
    whole = before.of(of)
    return 1.0 - after.of(of) / whole if whole else 0.0


def check_budget(budget: Budget) -> None:
    """Refuse a budget that no ranking could satisfy.

    Raises:
        OptionError: An option is not among those allowed.
    """
    if not 0 <= budget.ratio < 1:
        raise OptionError(
            f"a ratio of {budget.ratio:g} is outside [0, 1)",
            hint="the ratio is the fraction to remove, e.g. 0.3",
        )
    scopes = (AUTO, *SCOPES)
    for name, given, allowed in (("of", budget.of, COSTS), ("scope", budget.scope, scopes)):
        if given is not None and given not in allowed:
            raise OptionError(f"{name} {given!r} is none of {', '.join(allowed)}")
    for name, count in (("min_units", budget.min_units), ("round_to", budget.round_to)):
        if count < 1:
            raise OptionError(f"{name} {count} is less than 1", hint="give a positive number")


def check_modelled(budget: Budget) -> None:
    """Refuse a budget that no ranking could satisfy, or whose latency nobody has measured.

    Raises:
        OptionError: An option is not among those allowed.
    """
    check_budget(budget)
    if budget.of == "latency" and budget.latency is None:
        raise OptionError(
            "a ratio of the latency needs a measured latency model",
            hint="measure one: latency=graphprune.latency_model(graph)",
        )


class _Chooser:
    """Chooses among nested coalitions: what goes for a small budget also goes for a larger one."""

    def __init__(
        self, ranking: Ranking, budget: Budget, gone: Kept | None, locked: Kept | None
    ) -> None:
        graph, latency = ranking.graph, budget.latency
        self._graph = graph
        self._scores = ranking.scores
        self._of = budget.of
        self._min_units = budget.min_units
        fast = latency.widths if latency is not None and budget.of == "latency" else {}
        self._widths = [_widths(g, budget.round_to, fast.get(g.name)) for g in graph.groups]
        nothing = ~graph.all_kept()
        self._gone = nothing if gone is None else gone
        self._locked = nothing if locked is None else locked
        self._protected = frozenset(ranking.protected)
        self.costs = CostModel(ranking.graph, latency)
        self._before = self.costs.total(self._graph.all_kept())
        if not self._graph.n_units:
            raise BudgetError(
                "the network has no prunable unit",
                hint="`graphprune inspect MODEL` says what pins every axis",
            )

    def by_group(self, ratio: float) -> Kept:
        """Remove the same fraction of every group."""
        fractions, none = self._fractions(), np.zeros(0, np.int64)
        sequence = self._removable(self._gone_first(fractions))
        if self._of == "units" and not self._rounds:
            # To the nearest whole number of units, group by group, half a unit up.
            self._check_reachable(ratio, self._without(sequence))
            return self._without(sequence[fractions[sequence] <= ratio + _ROUNDING])
        # A fraction removes a unit of every group of one size at once.
        steps = np.unique(fractions[sequence])
        return self._smallest(
            ratio,
            steps.size,
            lambda k: self._without(sequence[fractions[sequence] <= steps[k - 1]] if k else none),
        )

    def globally(self, ratio: float) -> Kept:
        """Remove the units that are worth least for what they cost."""
        sequence = np.zeros(0, np.int64)
        for share in (SHARE_KEPT_LONGEST, 0.0):
            sequence = self._continued(sequence, share)
        return self._smallest(ratio, sequence.size, lambda k: self._without(sequence[:k]))

    def _continued(self, sequence: Units, share: float) -> Units:
        """Go on with an order of removal until every group has this share of its units left.

        It does not depend on a ratio, so that choices are nested.
        """
        while True:
            order = self._gone_first(self._value_per_cost(sequence))
            order = np.concatenate([sequence, order[~np.isin(order, sequence)]])
            longer = self._removable(order, share)
            if longer.size == sequence.size:
                return sequence
            until = self._share_gone(sequence) + 1 / _PRICINGS
            counts = range(sequence.size + 1, longer.size)
            more = bisect_left(counts, until, key=lambda k: self._share_gone(longer[:k]))
            sequence = longer[: sequence.size + 1 + more]

    def _share_gone(self, sequence: Units) -> float:
        """Return the share of the cost that goes with these units, whatever widths are allowed."""
        kept = self._graph.all_kept()
        kept[sequence] = False
        return self._reached(kept)

    def _fractions(self) -> Scores:
        """For every unit, the fraction of its group at which it goes, (n_units,)."""
        fractions = np.empty(self._graph.n_units)
        for group in self._graph.groups:
            order = np.lexsort((self._scores[group.span], ~self._gone[group.span]))
            fractions[group.first + order] = (np.arange(order.size) + 0.5) / order.size
        return fractions

    def _gone_first(self, keys: Scores) -> Units:
        """Return the units by ascending key, after those that are gone."""
        return np.lexsort((keys, ~self._gone))

    def _value_per_cost(self, sequence: Units) -> Scores:
        """Return what units are worth for what they cost on average along an order of removal."""
        kept = self._graph.all_kept()
        kept[sequence] = False
        cost = self.costs.price(self._of, kept)
        # A harmful unit (score below zero) is the better to remove the more it costs.
        per_cost: Scores = np.where(self._scores > 0, self._scores / cost, self._scores * cost)
        return per_cost

    def _removable(self, order: Units, share: float = 0.0) -> Units:
        """Drop the units from an order of removal that must stay when those before them are gone.

        Every group keeps its floor and this share of its units, every axis one entry.
        """
        floors = [self._floor(group, share) for group in self._groups]
        floors += [1] * len(self._graph.needed)
        left = [len(units) - floor for units, floor in zip(self._limited, floors, strict=True)]
        sequence = []
        for unit in order[~self._locked[order]].tolist():
            places = self._limits_of[unit]
            if all(left[place] > 0 for place in places):
                for place in places:
                    left[place] -= 1
                sequence.append(unit)
        return np.array(sequence, np.int64)

    @cached_property
    def _limited(self) -> list[Units]:
        """Sets of units of which some must stay: every group, and what makes up an axis."""
        return [*(np.arange(*_ends(group)) for group in self._groups), *self._graph.needed]

    @cached_property
    def _limits_of(self) -> list[list[int]]:
        """For every unit, the sets that it is in."""
        places: list[list[int]] = [[] for _ in range(self._graph.n_units)]
        for place, units in enumerate(self._limited):
            for unit in units.tolist():
                places[unit].append(place)
        return places

    @property
    def _groups(self) -> tuple[PruningGroup, ...]:
        return self._graph.groups

    def _floor(self, group: PruningGroup, share: float) -> int:
        """How many units of a group must stay."""
        if group.name in self._protected:
            return group.n_units
        left = group.n_units - int(self._gone[group.span].sum())
        return min(max(self._min_units, math.ceil(share * group.n_units)), left)

    def _without(self, listed: Units) -> Kept:
        """Remove units in this order, as far as widths stay multiples, and those that are gone."""
        kept = self._graph.all_kept()
        kept[listed] = False
        if self._rounds:
            for group, widths in zip(self._groups, self._widths, strict=True):
                inside = (listed >= group.first) & (listed < group.first + group.n_units)
                allowed = _allowed(group, int(inside.sum()), widths)
                kept[listed[inside][allowed:]] = True
        return kept & ~self._gone

    @property
    def _rounds(self) -> bool:
        """Whether some group may not have any width."""
        return any(len(w) < g.n_units for g, w in zip(self._groups, self._widths, strict=True))

    def _reached(self, kept: Kept) -> float:
        return _removed_fraction(self._before, self.costs.total(kept), self._of)

    def _check_reachable(self, ratio: float, most: Kept) -> None:
        reachable = self._reached(most)
        if ratio > reachable + _ROUNDING:
            raise BudgetError(
                f"removing {ratio:.1%} of the {self._of} is not reachable: "
                f"between 0 and {_floored(reachable)} can go",
                hint=self._remedy(),
            )

    def _remedy(self) -> str:
        remedies = ["ask for less"]
        if self._protected:
            remedies.append("protect fewer groups (--only, --skip)")
        if self._min_units > 1:
            remedies.append("allow narrower groups (--min-units)")
        if self._rounds and self._of != "latency":
            remedies.append("round to a smaller multiple (--round-to)")
        return ", or ".join(remedies)

    def _smallest(self, ratio: float, most: int, choose: Callable[[int], Kept]) -> Kept:
        """The first of the nested choices 0..most that removes the ratio asked for."""
        self._check_reachable(ratio, choose(most))
        low, high = 0, most
        while low < high:
            middle = (low + high) // 2
            if self._reached(choose(middle)) >= ratio - _ROUNDING:
                high = middle
            else:
                low = middle + 1
        return choose(low)


def _ends(group: PruningGroup) -> tuple[int, int]:
    return group.first, group.first + group.n_units


def _widths(group: PruningGroup, round_to: int, fast: Sequence[int] | None) -> Sequence[int]:
    """Return the numbers of units that a group may keep, ascending; all of them is the last."""
    multiples = range(round_to, group.n_units, round_to)
    chosen = multiples if fast is None else [w for w in fast if w in multiples]
    return [*chosen, group.n_units]


def _allowed(group: PruningGroup, count: int, widths: Sequence[int]) -> int:
    """Return how many of ``count`` units may go so that a width remains that is allowed."""
    return group.n_units - widths[bisect_left(widths, group.n_units - count)]


def _floored(fraction: float) -> str:
    """Write a fraction in per cent, rounded down, so that asking for it succeeds."""
    return f"{math.floor(fraction * 1000) / 10:.1f}%"
