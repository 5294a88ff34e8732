"""Traced networks, each traced once by a test process: nobody changes a graph."""

from __future__ import annotations

from functools import cache

from graphprune.graph import DependencyGraph, trace
from tests.networks import NETWORKS


@cache
def traced(name: str) -> DependencyGraph:
    """Return a network's graph."""
    return trace(NETWORKS[name].make(), NETWORKS[name].inputs())
