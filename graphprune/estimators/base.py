"""What every estimator returns, how per-image values become scores, and the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from graphprune.errors import OptionError
from graphprune.progress import Progress, silent

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ShapleyEstimate:
    """Estimated Shapley values of a game.

    Args:
        per_image: Value of every player on every image, (n_images, n_players).
        stderr: Standard error of the mean over images that sampling coalitions causes,
            (n_players,); zeros where every coalition was evaluated.
        evaluations: Coalitions evaluated, each on all images.
    """

    per_image: Floats
    stderr: Floats
    evaluations: int

    @property
    def values(self) -> Floats:
        """Mean over images, (n_players,): the Shapley value of the mean performance."""
        values: Floats = self.per_image.mean(0)
        return values


class Estimator(Protocol):
    """Estimates every player's value.

    Implementations are frozen dataclasses with the fields ``budget`` and ``seed``.
    """

    def estimate(self, game: Any, progress: Progress = silent) -> ShapleyEstimate:
        """Estimate every player's value.

        Raises:
            BudgetError: The budget is too small for this game.
        """


# ---- from per-image values to scores ------------------------------------------------------------


AGGREGATES = ("magnitude", "mean", "mean+2std")
"""``magnitude``: mean absolute value per image (signed values of different images cancel);
``mean``: the Shapley value itself; ``mean+2std``: the paper's variant for little data."""


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


# ---- registry -----------------------------------------------------------------------------------

_ESTIMATORS: dict[str, Callable[[int | None, int], Estimator]] = {}


def register(name: str) -> Callable[[type], type]:
    """Register an estimator class with the fields ``budget`` and ``seed``.

    Raises:
        OptionError: The name is taken.
    """

    def add(cls: type) -> type:
        if name in _ESTIMATORS:
            raise OptionError(f"two estimators are called {name!r}")
        _ESTIMATORS[name] = lambda budget, seed: cls(budget=budget, seed=seed)
        return cls

    return add


def available() -> tuple[str, ...]:
    """Return the names of all estimators."""
    return tuple(sorted(_ESTIMATORS))


def create(name: str, *, budget: int | None, seed: int) -> Estimator:
    """Return an estimator by name.

    Args:
        name: One of :func:`available`.
        budget: What it may spend, in its own unit; None for its default.
        seed: Equal seeds give equal estimates.

    Raises:
        OptionError: There is none of that name.
    """
    if name not in _ESTIMATORS:
        raise OptionError(f"estimator {name!r} is none of {', '.join(('auto', *available()))}")
    return _ESTIMATORS[name](budget, seed)
