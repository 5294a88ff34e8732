"""Criteria: what ranks units, one file each; importing this package registers them all."""

from graphprune.criteria import norms, random, shapley, taylor
from graphprune.criteria.base import (
    RankRequest,
    Scored,
    available,
    criterion,
    needs_data,
    rank,
)

__all__ = [
    "RankRequest",
    "Scored",
    "available",
    "criterion",
    "needs_data",
    "norms",
    "random",
    "rank",
    "shapley",
    "taylor",
]
