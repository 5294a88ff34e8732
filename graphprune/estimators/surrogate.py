"""A Gaussian process over coalitions, whose Shapley values have a closed form.

A game is taken for a draw from a Gaussian process: worth = a constant, a smooth function of the
coalition's size, a weight for every player, and interactions that fade with the number of players
in which two coalitions differ (``rho ** distance``). Given some coalitions' worth, its posterior
mean is a game whose values are linear in what was seen, and the coefficients are one-dimensional
integrals that depend on a coalition's size and on whether it has the player. So values take one
linear solve, and the posterior variance is their standard error.

With q the probability that another player is in (:mod:`graphprune.estimators.semivalues`), a
coalition S of k players covaries with the value of one of them by::

    (1 - rho) E_q[a^(k-1) b^(n-k)],   a = q + (1 - q) rho,   b = 1 - q + q rho,

and with that of another player by ``-(1 - rho) E_q[a^k b^(n-k-1)]``.

References:
    Rasmussen and Williams (2006), Gaussian processes for machine learning, chapters 2 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular
from scipy.special import xlogy

from graphprune.estimators.semivalues import Semivalue

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Sizes = npt.NDArray[np.int64]

_CONSTANT = 4.0
"""Prior variance of the constant, in units of the variance of the worth."""

_SIZE_SCALE = 0.25
"""Length over which worth depends on size, as a share of the number of players."""

MOST_FITTED = 256
"""Coalitions on which the kernel is chosen."""

MOST_DIRECT = 6000
"""Coalitions up to which equations are solved directly; beyond, by conjugate gradients."""

_TOLERANCE = 1e-6
_ITERATIONS = 300
_BLOCK = 2048


@dataclass(frozen=True)
class Kernel:
    """Prior variances of what a game is made of, in units of the variance of its worth.

    Args:
        size: Of a smooth function of the size.
        linear: Of a weight for every player.
        interaction: Of what fades with distance.
        rho: By how much, for every player in which two coalitions differ.
        noise: Of what nothing explains.
    """

    size: float
    linear: float
    interaction: float
    rho: float
    noise: float

    def between(self, one: Bools, other: Bools) -> Floats:
        """Return prior covariances of the worth of coalitions, (n_one, n_other); no noise."""
        n_players = one.shape[1]
        product_of_signs = _signs(one) @ _signs(other).T
        distances = (n_players - product_of_signs) / 2
        found: Floats = self.interaction * np.exp(np.log(self.rho) * distances)
        found += self.linear / n_players * product_of_signs + _CONSTANT
        found += self.size * _size_kernel(one.sum(1), other.sum(1), n_players)
        return found

    def with_values(self, kept: Bools, semivalue: Semivalue) -> Floats:
        """Return covariances of coalitions' worth with players' values, (n_coalitions, n_players).

        Where values are centred they are taken relative to their mean, which is known.
        """
        n_players = kept.shape[1]
        sizes = np.arange(n_players + 1)
        inside, outside = self._interaction_with_value(n_players, semivalue)
        shared = self.size * _size_with_value(sizes, n_players, semivalue)
        both = 2 * self.linear / n_players * _signs(kept)
        members = np.where(kept, inside[kept.sum(1)][:, None], outside[kept.sum(1)][:, None])
        found: Floats = both + self.interaction * members + shared[kept.sum(1)][:, None]
        if semivalue.efficient:
            found -= found.mean(1, keepdims=True)
        return found

    def _interaction_with_value(
        self, n_players: int, semivalue: Semivalue
    ) -> tuple[Floats, Floats]:
        """Return covariances by size with the value of a member and of another player."""
        q, weights = semivalue.points(n_players)
        sizes = np.arange(n_players + 1)[:, None]
        agree, differ = q + (1 - q) * self.rho, 1 - q + q * self.rho
        others = n_players - sizes
        inside = np.exp(xlogy(np.maximum(sizes - 1, 0), agree) + xlogy(others, differ))
        outside = np.exp(xlogy(sizes, agree) + xlogy(np.maximum(others - 1, 0), differ))
        with_it: Floats = (1 - self.rho) * (inside @ weights)
        without: Floats = (self.rho - 1) * (outside @ weights)
        return with_it, without

    def of_values(self, n_players: int, semivalue: Semivalue) -> Floats:
        """Return prior covariances of players' values, (n_players, n_players); centred if known."""
        q, weights = semivalue.points(n_players)
        both = weights[:, None] * weights[None]
        agree = q[:, None] * q + (1 - q)[:, None] * (1 - q)
        same = agree + self.rho * (1 - agree)
        own = 2 * (1 - self.rho) * (both * same ** (n_players - 1)).sum()
        tilt = (2 * q - 1)[:, None] * (2 * q - 1)
        apart = both * tilt * same ** max(n_players - 2, 0)
        cross = (1 - self.rho) ** 2 * apart.sum()
        alone = 4 * self.linear / n_players + self.interaction * (own - cross)
        shared = -float(alone) / n_players
        if not semivalue.efficient:
            shared = self.interaction * float(cross) + self._size_of_value(n_players, semivalue)
        found: Floats = float(alone) * np.eye(n_players) + shared
        return found

    def _size_of_value(self, n_players: int, semivalue: Semivalue) -> float:
        shares = semivalue.size_shares(n_players)
        sizes = np.arange(n_players + 1)
        along = _size_with_value(sizes, n_players, semivalue)
        return float(self.size * shares @ np.diff(along))


def _signs(kept: Bools) -> Floats:
    signs: Floats = 2.0 * kept.astype(np.float64) - 1.0
    return signs


def _size_kernel(one: Sizes, other: Sizes, n_players: int) -> Floats:
    gaps = (one[:, None] - other[None]) / (_SIZE_SCALE * n_players)
    found: Floats = np.exp(-0.5 * np.square(gaps)).astype(np.float64)
    return found


def _size_with_value(sizes: npt.NDArray[np.int64], n_players: int, semivalue: Semivalue) -> Floats:
    """Return how the size kernel at each size covaries with any player's value."""
    steps = np.diff(_size_kernel(np.arange(n_players + 1), sizes, n_players), axis=0)
    found: Floats = semivalue.size_shares(n_players) @ steps
    return found


# ---- choosing the kernel ------------------------------------------------------------------------

_LENGTHS = (0.15, 0.35, 0.7, 1.5, 3.0)
_MIXTURES = ((1.0, 1.0, 1.0), (1.0, 0.3, 1.0), (1.0, 1.0, 0.3), (0.3, 0.3, 1.0), (1.0, 3.0, 0.3))
_NOISES = (1e-6, 1e-4, 1e-3, 1e-2, 5e-2)

_START = (2, 0, 2)
_SWEEPS = 2


@dataclass(frozen=True)
class Fit:
    """A kernel that was chosen.

    Args:
        kernel: The kernel.
        scale: By how much outputs spread, in units of what the kernel expects.
    """

    kernel: Kernel
    scale: float


def fitted(kept: Bools, targets: Floats) -> Fit:
    """Return the kernel of largest marginal likelihood, found by changing one part at a time.

    Args:
        kept: Coalitions.
        targets: (n_coalitions, n_outputs), standardised; the outputs share the kernel.
    """
    rows = np.linspace(0, len(kept) - 1, min(len(kept), MOST_FITTED)).astype(int)
    few, outputs = kept[rows], targets[rows]
    known: dict[tuple[int, int, int], tuple[float, float]] = {}

    def likelihood(place: tuple[int, int, int]) -> float:
        if place not in known:
            known[place] = _likelihood(_candidate(place, kept.shape[1]), few, outputs)
        return known[place][0]

    best = _START
    for _, part in product(range(_SWEEPS), range(3)):
        length, mixture, noise = best
        tried = (
            [(choice, mixture, noise) for choice in range(len(_LENGTHS))],
            [(length, choice, noise) for choice in range(len(_MIXTURES))],
            [(length, mixture, choice) for choice in range(len(_NOISES))],
        )
        best = max(tried[part], key=likelihood)
    return Fit(_candidate(best, kept.shape[1]), known[best][1])


def _candidate(place: tuple[int, ...], n_players: int) -> Kernel:
    length, (size, linear, interaction) = _LENGTHS[place[0]], _MIXTURES[place[1]]
    rho = float(np.exp(-2 / (length * n_players)))
    return Kernel(size, linear, interaction, rho, _NOISES[place[2]])


def _likelihood(kernel: Kernel, kept: Bools, targets: Floats) -> tuple[float, float]:
    """Return the logarithm of the marginal likelihood at the outputs' best scale, and that scale.

    Every output has a scale of its own; theirs is the root of the mean square.
    """
    covariance = kernel.between(kept, kept)
    covariance[np.diag_indices(len(kept))] += kernel.noise
    try:
        lower = cholesky(covariance, lower=True, check_finite=False)
    except LinAlgError:
        return -np.inf, 1.0
    whitened = solve_triangular(lower, targets, lower=True, check_finite=False)
    squares = np.square(whitened).mean(0)
    squares = squares[squares > 0]
    if not squares.size:
        return 0.0, 0.0
    likelihood = -0.5 * len(kept) * np.log(squares).mean() - np.log(np.diag(lower)).sum()
    return float(likelihood), float(np.sqrt(squares.mean()))


def standardised(worth: Floats) -> tuple[Floats, Floats]:
    """Return outputs with mean zero and spread one, and the spreads, (n_outputs,)."""
    centred = worth - worth.mean(0)
    spread = centred.std(0)
    spread = np.where(spread > 1e-12 * np.abs(worth).max(initial=0.0), spread, 0.0)
    return np.where(spread, centred, 0.0) / np.where(spread, spread, 1.0), spread


# ---- values -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Posterior:
    """What coalitions tell about values.

    Args:
        weights: (n_coalitions, n_players); a value is the sum of weighted worth.
        covariance: Posterior covariance of players' values for outputs of scale one,
            (n_players, n_players).
    """

    weights: Floats
    covariance: Floats


def posterior(kernel: Kernel, kept: Bools, semivalue: Semivalue) -> Posterior:
    """Return what the worth of coalitions tells about players' values."""
    crossed = kernel.with_values(kept, semivalue)
    weights = _solved(kernel, kept, crossed)
    covariance = kernel.of_values(kept.shape[1], semivalue) - weights.T @ crossed
    return Posterior(weights, (covariance + covariance.T) / 2)


@dataclass(frozen=True)
class Corrected:
    """Values after another estimate of them was heard.

    Args:
        values: (n_outputs, n_players).
        covariance: Posterior covariance, (n_players, n_players).
    """

    values: Floats
    covariance: Floats


_ERRORS = np.logspace(0, 5, 26)
"""Error variances of the other estimate that are tried, in units of the least."""


def corrected(values: Floats, covariance: Floats, heard: Floats, least: float) -> Corrected:
    """Correct values by another estimate of the same, which errs by an unknown, equal variance.

    That variance is the one which makes what is heard most probable given the values and their
    covariance: an estimate that misleads is told by its distance, and is not followed.

    Args:
        values: Posterior means, (n_outputs, n_players).
        covariance: Their posterior covariance, the same for all outputs.
        heard: The other estimate, (n_outputs, n_players).
        least: Least error variance, as a share of the variance of what is heard.
    """
    eigenvalues, vectors = np.linalg.eigh(covariance)
    variances = np.maximum(eigenvalues, 0.0)
    news = (heard - values) @ vectors
    power = np.square(news).mean(0)
    errors = _ERRORS * max(least * float(heard.var(1).mean()), 1e-300)
    sums = variances[None] + errors[:, None]
    error = errors[np.argmax(-(power / sums + np.log(sums)).sum(1))]
    gains = variances / (variances + error)
    return Corrected(
        values + (news * gains) @ vectors.T, (vectors * (variances * (1 - gains))) @ vectors.T
    )


def _solved(kernel: Kernel, kept: Bools, targets: Floats) -> Floats:
    """Return the targets divided by the coalitions' covariance, noise included."""
    if len(kept) > MOST_DIRECT:
        return _conjugate_gradients(kernel, kept, targets)
    covariance = kernel.between(kept, kept)
    covariance[np.diag_indices(len(kept))] += kernel.noise
    # In place: the largest matrix here is then the only one of its size.
    factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
    solved: Floats = cho_solve(factor, targets, check_finite=False)
    return solved


def _conjugate_gradients(kernel: Kernel, kept: Bools, targets: Floats) -> Floats:
    """Solve for all targets at once; the covariance is made in blocks and never held whole.

    What distinguishes a game's covariance from noise lies in few directions (the constant, the
    size, a weight for every player), so a rank-revealing preconditioner of some coalitions takes
    most of the work.
    """
    precondition = _Preconditioner(kernel, kept)
    solution = np.zeros_like(targets)
    residual = targets.copy()
    direction = precondition(residual)
    size = (residual * direction).sum(0)
    goal = _TOLERANCE * np.linalg.norm(targets, axis=0)
    along = direction
    for _ in range(_ITERATIONS):
        if (np.linalg.norm(residual, axis=0) <= goal).all():
            break
        image = _times(kernel, kept, along)
        step = size / np.maximum((along * image).sum(0), 1e-300)
        solution += step * along
        residual -= step * image
        direction = precondition(residual)
        new = (residual * direction).sum(0)
        along = direction + new / np.maximum(size, 1e-300) * along
        size = new
    return solution


def _times(kernel: Kernel, kept: Bools, vectors: Floats) -> Floats:
    found = kernel.noise * vectors
    for start in range(0, len(kept), _BLOCK):
        rows = slice(start, start + _BLOCK)
        found[rows] += kernel.between(kept[rows], kept) @ vectors
    return found


class _Preconditioner:
    """Inverse of noise plus the covariance that some coalitions explain (Nyström)."""

    def __init__(self, kernel: Kernel, kept: Bools) -> None:
        count = min(len(kept) // 4, 1500)
        rows = np.linspace(0, len(kept) - 1, count).astype(int)
        inner = kernel.between(kept[rows], kept[rows])
        inner[np.diag_indices(count)] += 1e-8 * np.trace(inner) / count
        lower = cholesky(inner, lower=True, check_finite=False)
        crossed = kernel.between(kept[rows], kept)
        self._root: Floats = solve_triangular(lower, crossed, lower=True, check_finite=False)
        # What the few coalitions leave unexplained acts like noise.
        left = kernel.between(kept[:1], kept[:1])[0, 0] - np.square(self._root).sum(0).mean()
        self._noise = kernel.noise + max(float(left), 0.0)
        gram = self._root @ self._root.T
        gram[np.diag_indices(count)] += self._noise
        self._factor = cho_factor(gram, lower=True, check_finite=False)

    def __call__(self, vectors: Floats) -> Floats:
        inner = cho_solve(self._factor, self._root @ vectors, check_finite=False)
        found: Floats = (vectors - self._root.T @ inner) / self._noise
        return found
