"""Inspect: what a network is made of."""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.description import GroupFacts, NetworkFacts, describe
from graphprune.pipeline.options import RankOptions
from graphprune.pipeline.ranking import left_alone
from graphprune.pipeline.subject import Subject
from graphprune.steering import groups_made_by


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a network is made of.

    Args:
        facts: Everything.
        groups: The groups to show.
        protected: Groups that would be left alone.
    """

    facts: NetworkFacts
    groups: tuple[GroupFacts, ...]
    protected: tuple[str, ...]


def inspect(subject: Subject, options: RankOptions, patterns: tuple[str, ...]) -> Inspection:
    """Describe a network.

    Args:
        subject: The network.
        options: Of which ``only`` and ``skip`` count.
        patterns: Groups to show, or what makes their units; all groups by default.

    Raises:
        OptionError: A pattern matches nothing.
    """
    protected = left_alone(subject, options)
    chosen = {name for pattern in patterns for name in groups_made_by(subject.graph, pattern)}
    facts = describe(subject.graph)
    shown = tuple(group for group in facts.groups if group.name in chosen or not patterns)
    return Inspection(facts=facts, groups=shown, protected=protected)
