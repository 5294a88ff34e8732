"""Steering: which groups the patterns of ``--only`` and ``--skip`` leave alone.

A pattern (``layer1.*``) is matched against names of groups, of parameters and of modules; a
module's name stands for everything in it.

- ``skip`` leaves alone what it names. A module stays as it is: neither what it makes nor what it
  reads shrinks. A group or a parameter stands for its units; a parameter that makes none, for those
  it reads.
- ``only`` prunes the groups whose units are made by what it names, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from graphprune.errors import OptionError
from graphprune.graph import DependencyGraph
from graphprune.groups import Member, PruningGroup

_LISTED = 3
"""How many near names or reasons a message gives."""


def groups_made_by(graph: DependencyGraph, pattern: str) -> tuple[str, ...]:
    """Return the groups that a pattern names, or whose units are made by what it names.

    Raises:
        OptionError: There are none.
    """
    found = _Names(graph).made_by(pattern)
    return tuple(group.name for group in graph.groups if group.name in found)


def protected_groups(
    graph: DependencyGraph, only: Sequence[str] = (), skip: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the groups that ``only`` leaves out or ``skip`` names, in the graph's order.

    Raises:
        OptionError: A pattern matches nothing.
    """
    names = _Names(graph)
    allowed = {group.name for group in graph.groups}
    if only:
        allowed = set().union(*(names.made_by(pattern) for pattern in only))
    for pattern in skip:
        allowed -= names.touching(pattern)
    return tuple(group.name for group in graph.groups if group.name not in allowed)


class _Names:
    """What the names in a network stand for."""

    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph
        self._names: dict[str, list[str]] = {}
        for name, first in graph.program.aliases.items():
            self._names.setdefault(first, []).append(name)

    def made_by(self, pattern: str) -> set[str]:
        """Return the groups whose units something of this name makes."""
        found = set()
        for group in self._graph.groups:
            makers = [member for member in group.members if member.role == "producer"]
            if fnmatchcase(group.name, pattern) or any(
                self._is_parameter(m, pattern) or self._is_in_module(m, pattern) for m in makers
            ):
                found.add(group.name)
        if not found:
            self._refuse(pattern, needs_units=True)
        return found

    def touching(self, pattern: str) -> set[str]:
        """Return the groups that live on something of this name."""
        found = {group.name for group in self._graph.groups if self._touches(group, pattern)}
        if not found:
            self._refuse(pattern, needs_units=False)
        return found

    def _touches(self, group: PruningGroup, pattern: str) -> bool:
        return fnmatchcase(group.name, pattern) or any(
            self._is_in_module(member, pattern)
            or (self._is_parameter(member, pattern) and self._stands_for(member))
            for member in group.members
        )

    def _stands_for(self, member: Member) -> bool:
        """Whether a parameter's name stands for the units along this axis of it."""
        if member.role != "consumer":
            return True
        axes = (a for a in self._graph.analysis.parameter_axes if a.parameter == member.parameter)
        units = self._graph.parameter_units[member.parameter]
        return not any(axis.role != "consumer" and axis.dim in units for axis in axes)

    def _is_parameter(self, member: Member, pattern: str) -> bool:
        return any(fnmatchcase(name, pattern) for name in self._names[member.parameter])

    def _is_in_module(self, member: Member, pattern: str) -> bool:
        names = self._names[member.parameter]
        return any(fnmatchcase(module, pattern) for name in names for module in _modules(name))

    # ---- nothing found -----------------------------------------------------------------------

    def _refuse(self, pattern: str, *, needs_units: bool) -> None:
        """Say that a pattern names nothing, or nothing that can be pruned.

        What is not prunable may be skipped all the same.
        """
        known = {name for names in self._names.values() for name in names}
        known |= {module for name in known for module in _modules(name)}
        if any(fnmatchcase(name, pattern) for name in known):
            if needs_units:
                raise OptionError(
                    f"pattern {pattern!r} matches no group: {self._why(pattern)}",
                    hint="`graphprune inspect MODEL --pins` lists what is pinned",
                )
            return
        near = get_close_matches(pattern, [*known, *(g.name for g in self._graph.groups)], _LISTED)
        raise OptionError(
            f"pattern {pattern!r} matches no group, parameter or module",
            hint=f"did you mean {' or '.join(near)}?"
            if near
            else "`graphprune inspect MODEL` lists the groups and the modules they live in",
        )

    def _why(self, pattern: str) -> str:
        reasons = {
            pin.reason: None
            for pin in self._graph.pinned
            for name in self._names[pin.parameter]
            if any(fnmatchcase(n, pattern) for n in (name, *_modules(name)))
        }
        return "; ".join(list(reasons)[:_LISTED]) or "it makes no units"


def _modules(parameter: str) -> Iterator[str]:
    """Yield the module that holds a parameter, and those around it."""
    path = parameter.rpartition(".")[0]
    while path:
        yield path
        path = path.rpartition(".")[0]
