"""Weighted least squares: the additive game that is closest to the game.

Shapley values are the weights of the additive game that is closest to a game, in a least-squares
sense that weights coalitions by their size, among those that agree with it on the empty and on the
grand coalition. With few coalitions that fit explodes, so it is held back towards equal shares, as
much as predicts left-out coalitions best.

References:
    Charnes et al. (1988), doi:10.1007/978-94-009-3677-5_7; Lundberg and Lee (2017), arXiv
    1705.07874.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graphprune.estimators.evidence import Evidence
from graphprune.estimators.pairs import inclusion

Floats = npt.NDArray[np.float64]

_STRENGTHS = np.concatenate([[0.0], np.logspace(-6, 2, 17)])
"""Strengths of the ridge that are tried, as shares of the mean eigenvalue."""

_LEAST = 1e-9
"""Eigenvalues below this share of the largest are taken for zero."""


def shapley_kernel(kept: npt.NDArray[np.bool_]) -> tuple[Floats, float]:
    """Return the weight of every coalition of a table, and the share of all weight it lacks.

    All coalitions of a size weigh ``(n - 1) / (size (n - size))`` together; those that were drawn
    stand for those that were not.
    """
    n_players, sizes = kept.shape[1], kept.sum(1)
    counts = np.bincount(sizes, minlength=n_players + 1)[sizes]
    weights: Floats = (n_players - 1) / (sizes * (n_players - sizes) * counts)
    seen = (weights * inclusion(kept)).sum() / weights.sum() if len(kept) else 1.0
    return weights, 1.0 - float(seen)


def closest_additive(evidence: Evidence, weights: Floats, unseen: float = 1.0) -> Floats:
    """Return the values of the closest additive game, (n_images, n_players).

    Args:
        evidence: Coalitions in pairs, each followed by its complement.
        weights: Weight of every coalition, the same for both of a pair.
        unseen: Share of the game that the coalitions leave out, 0 if none is missing: what has been
            seen is not noise, so the fit is held back by that much less.
    """
    n_players = evidence.n_players
    gain = evidence.full - evidence.empty
    share = (gain / n_players)[:, None]
    if not len(evidence.kept):
        return np.repeat(share, n_players, axis=1)
    # What a pair has in common says nothing of additive games; half its difference does.
    kept = evidence.kept[::2].astype(np.float64)
    sizes = kept.sum(1, keepdims=True)
    targets = (evidence.worth[::2] - evidence.worth[1::2]) / 2 - (sizes / n_players - 0.5) * gain
    root = np.sqrt(weights[::2] / weights.mean())[:, None]
    slopes = _ridge((kept - sizes / n_players) * root, targets * root, unseen)
    return share + slopes.T


def _ridge(design: Floats, targets: Floats, unseen: float) -> Floats:
    """Return ridge coefficients, (n_players, n_images); one strength, that fits the mean best."""
    eigenvalues, vectors = np.linalg.eigh(design.T @ design)
    # The coefficients add up to zero, so one direction of the design is empty.
    empty = eigenvalues <= _LEAST * eigenvalues[-1]
    turned = design @ vectors
    mean = targets.mean(1)
    scale = eigenvalues.sum() / max(len(eigenvalues) - 1, 1)
    best = min(
        (scale * strength for strength in _STRENGTHS if strength or empty.sum() <= 1),
        key=lambda strength: _left_out_error(turned, mean, _inverse(eigenvalues, empty, strength)),
    )
    inverse = _inverse(eigenvalues, empty, unseen * best)
    coefficients: Floats = vectors @ (inverse[:, None] * (turned.T @ targets))
    return coefficients


def _inverse(eigenvalues: Floats, empty: npt.NDArray[np.bool_], strength: float) -> Floats:
    return np.where(empty, 0.0, 1 / np.where(empty, 1.0, eigenvalues + strength))


def _left_out_error(turned: Floats, targets: Floats, inverse: Floats) -> float:
    """Return the mean squared error of predicting each row from all others."""
    fitted = turned @ (inverse * (turned.T @ targets))
    leverage = np.square(turned) @ inverse
    if leverage.max() > 1 - _LEAST:
        # A row that nothing but itself foretells: it would be fitted without error, and blindly.
        return np.inf
    errors = (targets - fitted) / (1 - leverage)
    return float(np.square(errors).mean())
