"""Descriptions: kinds of units, costs, members, unknown ops, inputs and outputs, worked by hand."""

from __future__ import annotations

import linecache

import pytest
import torch
from torch import Tensor, nn

from graphprune.description import GroupFacts, MemberFacts, NetworkFacts, describe
from graphprune.graph import trace


class Small(nn.Module):
    """Two convolutions with a norm between, an op without a rule, and an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.next = nn.Conv2d(8, 6, 1)
        self.odd = nn.Linear(6, 9)
        self.head = nn.Linear(9, 4)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.next(x).mean((2, 3))
        x = torch.linalg.matrix_exp(self.odd(x).unflatten(1, (3, 3)))
        return {"logits": self.head(x.flatten(1))}


@pytest.fixture(scope="module")
def facts() -> NetworkFacts:
    return describe(trace(Small(), (torch.randn(2, 3, 9, 9),)))


def described(model: nn.Module, *shape: int) -> dict[str, GroupFacts]:
    facts = describe(trace(model.eval(), (torch.randn(2, *shape),)))
    return {group.name: group for group in facts.groups}


def test_costs_of_a_unit_and_of_a_group(facts: NetworkFacts) -> None:
    stem, after = facts.groups
    assert (stem.name, stem.units, after.name, after.units) == ("stem.weight", 8, "next.weight", 6)
    # A filter, a scale and a shift of the norm, a column of the next layer; 7x7 positions.
    assert stem.params_per_unit == 3 * 9 + 2 + 6
    assert stem.macs_per_unit == (3 * 9 + 6) * 49
    # Gone with all eight: everything but the biases of what reads them.
    assert stem.params == 8 * 35
    assert stem.macs == 8 * 33 * 49
    # A row and a bias of `next` and a column of `odd`, whose own outputs are pinned.
    assert after.params == 6 * (8 + 1 + 9)


def test_the_share_that_is_prunable(facts: NetworkFacts) -> None:
    on_units = 8 * 27 + 2 * 8 + 6 * 8 + 6 + 6 * 9
    whole = on_units + 9 + (9 * 4 + 4)
    assert facts.cost.params == whole
    assert facts.prunable.params == pytest.approx(on_units / whole)


def test_members_say_where_they_are_read(facts: NetworkFacts) -> None:
    members = {(m.parameter, m.dim): m for m in facts.groups[0].members}
    found = members["next.weight", 1]
    assert (found.role, found.size, found.entries_per_unit) == ("consumer", 8, 1)
    assert (found.op, found.module) == ("aten.conv2d.default", "next")
    assert "self.next(x)" in line_of(found)
    assert members["norm.running_var", 0].role == "follower"


def line_of(found: MemberFacts) -> str:
    file, _, line = found.source.rpartition(":")
    return linecache.getline(file, int(line))


def test_unknown_ops_and_unused_parameters(facts: NetworkFacts) -> None:
    (odd,) = facts.unknown
    assert odd.op == "aten.linalg_matrix_exp.default"
    file, _, line = odd.source.rpartition(":")
    assert "matrix_exp" in linecache.getline(file, int(line))
    assert facts.unused == ("unused.weight", "unused.bias")


def test_inputs_and_outputs(facts: NetworkFacts) -> None:
    (taken,), (made,) = facts.inputs, facts.outputs
    assert (taken.name, taken.shape, taken.dtype) == ("x", ("N", 3, 9, 9), "float32")
    assert (made.name, made.shape, made.unpinned) == ("logits", ("N", 4), False)


# ---- kinds --------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Three heads of four columns; scores are products, so q and k share their columns."""

    def __init__(self, *, whole_heads: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 36), nn.Linear(12, 5)
        self.whole_heads = whole_heads

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 3, 4).permute(2, 0, 3, 1, 4)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(batch, length, 12)).mean(1)


def test_heads() -> None:
    (group,) = described(Attention(whole_heads=True), 7, 8).values()
    assert (group.kind, group.units, group.entries_per_unit) == ("head", 3, 12)


def test_channels_and_features() -> None:
    model = nn.Sequential(nn.Conv1d(3, 6, 3), nn.Flatten(), nn.Linear(30, 8), nn.Linear(8, 2))
    groups = described(model, 3, 7)
    assert (groups["0.weight"].kind, groups["2.weight"].kind) == ("channel", "feature")
    by_name = {(m.parameter, m.dim): m for m in groups["0.weight"].members}
    assert by_name["2.weight", 1].entries_per_unit == 5


def test_channel_groups() -> None:
    """Group norm over pairs: whole pairs go."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1))
    group = described(model, 3, 4, 4)["0.weight"]
    assert group.kind == "channel group"
    assert group.units * int(group.entries_per_unit or 0) == 8
