"""Shapley estimators, one file each; importing this package registers them all."""

from graphprune.estimators import exact, gradients, permutation
from graphprune.estimators.base import (
    AGGREGATES,
    Estimator,
    ShapleyEstimate,
    aggregate,
    available,
    create,
    register,
    scores_of,
)

__all__ = [
    "AGGREGATES",
    "Estimator",
    "ShapleyEstimate",
    "aggregate",
    "available",
    "create",
    "exact",
    "gradients",
    "permutation",
    "register",
    "scores_of",
]
