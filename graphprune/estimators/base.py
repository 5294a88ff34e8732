"""What every estimator returns, how per-image values become scores, and the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from graphprune.checkpoint import NO_STATE, State
from graphprune.errors import OptionError
from graphprune.estimators.semivalues import SHAPLEY, Semivalue
from graphprune.estimators.stopping import NEVER, Stopping, stability_of
from graphprune.game.games import Game
from graphprune.progress import Progress, silent

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ShapleyEstimate:
    """Estimated Shapley values of a game.

    Args:
        per_image: Value of every player on every image, (n_images, n_players).
        stderr: Standard error of ``values`` that sampling coalitions causes on these images,
            (n_players,); zeros where every coalition was evaluated.
        evaluations: Coalitions evaluated, each on all images.
        own_coalitions: Every image had coalitions of its own, so that the spread over images tells
            of the sampling of coalitions too.
        stability: Rank correlation, in [-1, 1], that the scores of another run like this one would
            have with those of this one; None where it was not asked for.
        stopped: What ended the work: ``budget``, ``seconds`` or ``stable``.
    """

    per_image: Floats
    stderr: Floats
    evaluations: int
    own_coalitions: bool = False
    stability: float | None = None
    stopped: str = "budget"

    @property
    def values(self) -> Floats:
        """Mean over images, (n_players,): the Shapley value of the mean performance."""
        values: Floats = self.per_image.mean(0)
        return values


class Estimator(Protocol):
    """Estimates every player's value.

    Implementations are frozen dataclasses with the fields ``budget``, ``seed`` and ``semivalue``.
    """

    def estimate(
        self,
        game: Any,
        progress: Progress = silent,
        state: State = NO_STATE,
        stopping: Stopping = NEVER,
    ) -> ShapleyEstimate:
        """Estimate every player's value.

        Args:
            game: The game.
            progress: Told about every step.
            state: Where to go on from and what to keep, so that an interrupted run can be taken
                up and ends with the estimate that it would have found.
            stopping: When to stop before the budget is spent.

        Raises:
            BudgetError: The budget is too small for this game.
            OptionError: It cannot estimate this semivalue, or play this kind of game.
        """


# ---- from per-image values to scores ------------------------------------------------------------


AGGREGATES = ("magnitude", "mean", "mean+2std")
"""``magnitude``: mean absolute value per image (signed values of different images cancel);
``mean``: the Shapley value itself; ``mean+2std``: the paper's variant for little data."""


def scores_of(estimate: ShapleyEstimate, how: str) -> tuple[Floats, Floats]:
    """Turn an estimate into scores and their standard errors, (n_players,) each.

    The errors say how far a score would move with other calibration images and other draws of
    coalitions. Where all images share coalitions, the error that these cause in the mean is added;
    for the other aggregates that is an approximation.

    Raises:
        OptionError: ``how`` is none of :data:`AGGREGATES`.
    """
    scores, stderr = aggregate(estimate.per_image, how)
    return scores, stderr if estimate.own_coalitions else np.hypot(stderr, estimate.stderr)


def aggregate(per_image: Floats, how: str) -> tuple[Floats, Floats]:
    """Turn per-image values (n_images, n_players) into scores and their standard errors.

    Standard errors are over images: how far a score would move with other calibration images.

    Raises:
        OptionError: ``how`` is none of :data:`AGGREGATES`.
    """
    if how not in AGGREGATES:
        raise OptionError(f"aggregate {how!r} is none of {', '.join(AGGREGATES)}")
    n_images = len(per_image)
    counted = np.abs(per_image) if how == "magnitude" else per_image
    spread = counted.std(0, ddof=1) if n_images > 1 else np.zeros(per_image.shape[1])
    scores = counted.mean(0) + (2 * spread if how == "mean+2std" else 0.0)
    # Var(mean + 2 s) = (1 + 2) s^2 / n for a Gaussian, since Var(s) is s^2 / 2n.
    factor = np.sqrt(3.0) if how == "mean+2std" else 1.0
    return scores, factor * spread / np.sqrt(n_images)


def stability_of_halves(one: Floats, other: Floats, how: str) -> float:
    """Return how stable scores are, from the per-image values that each half of the evidence gives.

    Args:
        one: (n_images, n_players) of one half.
        other: The other half's.
        how: How per-image values become scores, see :data:`AGGREGATES`.
    """
    return stability_of(aggregate(one, how)[0], aggregate(other, how)[0])


# ---- registry -----------------------------------------------------------------------------------

_ESTIMATORS: dict[str, Callable[[int | None, int, Semivalue], Estimator]] = {}


Registered = TypeVar("Registered", bound=type)


def register(name: str) -> Callable[[Registered], Registered]:
    """Register an estimator class with the fields ``budget``, ``seed`` and ``semivalue``.

    Raises:
        OptionError: The name is taken.
    """

    def add(cls: Registered) -> Registered:
        if name in _ESTIMATORS:
            raise OptionError(f"two estimators are called {name!r}")
        _ESTIMATORS[name] = lambda budget, seed, semivalue: cls(
            budget=budget, seed=seed, semivalue=semivalue
        )
        return cls

    return add


def available() -> tuple[str, ...]:
    """Return the names of all estimators."""
    return tuple(sorted(_ESTIMATORS))


def create(
    name: str, *, budget: int | None, seed: int, semivalue: Semivalue = SHAPLEY
) -> Estimator:
    """Return an estimator by name.

    Args:
        name: One of :func:`available`.
        budget: What it may spend, in its own unit; None for its default.
        seed: Equal seeds give equal estimates.
        semivalue: What it estimates.

    Raises:
        OptionError: There is none of that name.
    """
    if name not in _ESTIMATORS:
        raise OptionError(f"estimator {name!r} is none of {', '.join(('auto', *available()))}")
    return _ESTIMATORS[name](budget, seed, semivalue)


def require_shapley(semivalue: Semivalue, name: str) -> None:
    """Refuse another semivalue than Shapley's.

    Raises:
        OptionError: It is another.
    """
    if not semivalue.efficient:
        raise OptionError(
            f"estimator {name!r} estimates Shapley values only, not {semivalue.name}",
            hint="use --estimator gaussian-process, which takes any semivalue",
        )


def require_no_unions(game: Game, name: str) -> None:
    """Refuse a game whose players form unions.

    Raises:
        OptionError: They do.
    """
    if game.unions is not None:
        raise OptionError(
            f"estimator {name!r} does not play the hierarchical game",
            hint="use --estimator permutation or antithetic, or --game network",
        )
