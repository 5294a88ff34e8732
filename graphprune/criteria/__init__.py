"""Criteria: what ranks units, one file each; importing this package registers them all."""

from graphprune.criteria import (
    activations,
    leave_one_out,
    norms,
    obs,
    random,
    scales,
    shapley,
    taylor,
    torch_pruning,
)
from graphprune.criteria.base import AUTO, available, criterion, needs_data, rank
from graphprune.criteria.request import RankRequest, Scored, UserCriterion, ValueFunction

__all__ = [
    "AUTO",
    "RankRequest",
    "Scored",
    "UserCriterion",
    "ValueFunction",
    "activations",
    "available",
    "criterion",
    "leave_one_out",
    "needs_data",
    "norms",
    "obs",
    "random",
    "rank",
    "scales",
    "shapley",
    "taylor",
    "torch_pruning",
]
