"""Turns: groups trade units, one group after the other.

A group's scores are scaled by a factor, up or down, and selection under the same budget makes room
elsewhere: so many more of its units stay, or go. Within a group the order of scores stays. Every
group has its turn, with smaller changes after those that fail.
"""

from __future__ import annotations

import numpy as np

from graphprune.exchanging.held import Held
from graphprune.graph import Kept
from graphprune.groups import PruningGroup
from graphprune.ranking import Scores

ROUNDS = 3
"""Turns of every group; more gain little."""

_FIRST_STEP = 1 / 8
"""Share of a group's units that its first turn adds or takes away."""

_OVER = 1 + 1e-6
"""Past a tie."""


def trade_groups(held: Held) -> None:
    """Give every group its turns, in the graph's order (others were tried, and were worse).

    Args:
        held: The plan by the ranking's own scores; afterwards a better one, if any is found.
    """
    ranking = held.ranking
    free = [each for each in ranking.graph.groups if each.name not in ranking.protected]
    steps = {group.name: _FIRST_STEP for group in free}
    scores = _positive(ranking.scores)
    for _ in range(ROUNDS):
        for group in free:
            if not held.passes.left:
                return
            steps[group.name], scores = _turn(held, group, scores, steps[group.name])


def n_turns(n_groups: int) -> int:
    """Return how many plans all turns may play, the first one included."""
    return 2 * ROUNDS * max(n_groups, 1) + 1


def _turn(held: Held, group: PruningGroup, scores: Scores, step: float) -> tuple[float, Scores]:
    """Move one group's scores by a share of its units, if that is better.

    Returns:
        The step of its next turn, negative to shrink first, and the scores by now.
    """
    for signed in (step, -step):
        moved = scores.copy()
        moved[group.span] *= _factor(scores[group.span], held.kept[group.span], signed)
        if held.beaten_by(moved):
            return signed, moved
    return -step / 2, scores


def _positive(scores: Scores) -> Scores:
    """Return scores that factors move, in the same order: those near zero and below are lifted."""
    above = scores[scores > 0]
    highest = float(np.abs(scores).max(initial=0.0)) or 1.0
    floor = max(0.5 * float(np.quantile(above, 0.05)) if above.size else 0.0, 1e-9 * highest)
    below = floor / (1 + np.maximum(floor - scores, 0) / floor)
    return np.where(scores > floor, scores, below)


def _factor(scores: Scores, kept: Kept, step: float) -> float:
    """Return what one group's scores are multiplied by to keep more of its units, or fewer.

    Args:
        scores: (n_units,) of the group, positive.
        kept: (n_units,) Bool, those that the plan keeps now.
        step: Share of the units to add, or if negative to take away.
    """
    count = max(1, round(abs(step) * scores.size))
    inside, outside = np.sort(scores[kept]), np.sort(scores[~kept])[::-1]
    if step > 0:
        # What comes in is where the edge is now: the lowest score that stays.
        if not outside.size or not inside.size:
            return 1.0
        return float(inside[0] / outside[min(count, outside.size) - 1]) * _OVER
    if inside.size <= 1:
        return 1.0
    edge = outside[0] if outside.size else inside[0]
    return float(edge / inside[min(count, inside.size) - 1]) / _OVER
