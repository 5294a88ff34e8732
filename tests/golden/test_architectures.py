"""Whole architectures: the partition into groups, the number of units, and torch-pruning's view.

The partitions are kept in ``files``; ``GRAPHPRUNE_REGENERATE_GOLDEN=1`` writes them anew. Look at
the difference before committing it: a group that swallows another is a bug (two groups that need
not be one are pruned less freely), and so is a group that falls apart.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.description import describe
from graphprune.graph import DependencyGraph, trace
from tests.golden.architectures import ARCHITECTURES
from tests.golden.rival import Rival

FILES = Path(__file__).parent / "files"
REGENERATE = "GRAPHPRUNE_REGENERATE_GOLDEN"

pytestmark = pytest.mark.filterwarnings("ignore")

_MARKED = [
    pytest.param(name, marks=[pytest.mark.slow] if architecture.slow else [])
    for name, architecture in ARCHITECTURES.items()
]


class Subject:
    """One architecture, built and traced once for all its tests."""

    def __init__(self, name: str) -> None:
        self.name, self.architecture = name, ARCHITECTURES[name]
        self.model = self.architecture.build(name)
        size = self.architecture.resolution
        self.inputs = torch.zeros(2, 3, size, size)
        self.graph = trace(self.model, (self.inputs,))


@pytest.fixture(scope="module", params=_MARKED)
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(request.param)


def partition(graph: DependencyGraph) -> dict[str, Any]:
    """Return the groups of a network, each with what lives on it."""
    return {
        group.name: {
            "units": group.units,
            "kind": group.kind,
            **{
                f"{role}s": [f"{m.parameter}:{m.dim}" for m in group.members if m.role == role]
                for role in ("producer", "consumer", "follower")
            },
        }
        for group in describe(graph).groups
    }


def test_partition(subject: Subject) -> None:
    file = FILES / f"{subject.name}.json"
    found = partition(subject.graph)
    if os.environ.get(REGENERATE):
        file.parent.mkdir(exist_ok=True)
        file.write_text(as_text(found))
    assert found == json.loads(file.read_text())


def as_text(groups: dict[str, Any]) -> str:
    """Write one line a group, so that differences can be read."""
    lines = [f" {json.dumps(name)}: {json.dumps(group)}" for name, group in groups.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def test_number_of_units(subject: Subject) -> None:
    assert subject.graph.n_units == subject.architecture.units


def test_every_op_is_known_and_outputs_alone_are_pinned(subject: Subject) -> None:
    assert not subject.graph.unknown_ops
    assert {pin.reason for pin in subject.graph.pinned} == {"output of the network"}


def test_torch_pruning_couples_the_same(subject: Subject) -> None:
    if subject.architecture.rival:
        pytest.skip(f"torch-pruning {subject.architecture.rival}")
    rival = Rival(subject.model, subject.inputs)
    asked = [group for group in subject.graph.groups if rival.can_say(group)]
    assert len(asked) > len(subject.graph.groups) / 2
    for group in asked:
        ours = {(member.parameter, member.dim) for member in group.members}
        assert ours == rival.coupled(group), group.name


def test_no_file_is_left_over() -> None:
    assert {file.stem for file in FILES.glob("*.json")} == set(ARCHITECTURES)
