"""Shapley estimators, one file each; importing this package registers them all."""

from graphprune.estimators import (
    antithetic,
    exact,
    gaussian_process,
    gradients,
    kernelshap,
    leverageshap,
    orthogonal,
    owen,
    permutation,
    stratified,
)
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
from graphprune.estimators.semivalues import SEMIVALUES, SHAPLEY, Semivalue, semivalue_named
from graphprune.estimators.stopping import NEVER, Stopping

__all__ = [
    "AGGREGATES",
    "NEVER",
    "SEMIVALUES",
    "SHAPLEY",
    "Estimator",
    "Semivalue",
    "ShapleyEstimate",
    "Stopping",
    "aggregate",
    "antithetic",
    "available",
    "create",
    "exact",
    "gaussian_process",
    "gradients",
    "kernelshap",
    "leverageshap",
    "orthogonal",
    "owen",
    "permutation",
    "register",
    "scores_of",
    "semivalue_named",
    "stratified",
]
