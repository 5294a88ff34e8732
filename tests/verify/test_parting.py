"""Parting: where a cut network that is wrong parts from the masked one."""

from __future__ import annotations

import copy

import pytest
import torch

from graphprune.game.masking import mask_network
from graphprune.surgery import PrunedModel, cut
from graphprune.verify import check_masked
from graphprune.verify.cases import Settings, cases_for
from graphprune.verify.parting import where_they_part
from tests.export.subjects import subject
from tests.helpers import random_kept
from tests.networks import NETWORKS
from tests.traced import traced

FEW = Settings(batches=(2,), seeds=(0,))


@pytest.mark.parametrize("name", NETWORKS)
def test_nodes_of_a_right_cut_agree_everywhere(name: str) -> None:
    graph = traced(name)
    kept = random_kept(graph, 0.4, 0)
    pruned = cut(graph, kept)
    for case in cases_for(pruned, (), FEW).some():
        assert where_they_part(graph, kept, pruned, mask_network(graph, kept), case) == ""


def changed(pruned: PrunedModel, weight: str) -> PrunedModel:
    other = copy.deepcopy(pruned)
    with torch.no_grad():
        dict(other.state_dict())[weight].add_(0.5)
    return other


@pytest.mark.parametrize(
    "weight", ["stem.0.weight", "stem.1.running_mean", "a.0.weight", "b.bias", "head.fc.weight"]
)
def test_the_layer_of_a_wrong_weight_is_named(weight: str) -> None:
    given = subject("Residual")
    check = check_masked(given.graph, given.kept, changed(given.pruned, weight), FEW)
    assert not check.ok
    said = check.detail.partition("; first at ")[2]
    assert weight in said.partition("; groups ")[0]
    assert f"module {weight.rpartition('.')[0]};" in said
    assert "; groups " in said


def test_a_cut_of_other_units_is_named_by_its_first_layer() -> None:
    given = subject("Residual")
    other = random_kept(given.graph, 0.3, 1)
    check = check_masked(given.graph, other, given.pruned, FEW)
    assert not check.ok
    assert "module stem.0; weights stem.0.weight" in check.detail


def test_what_cannot_be_explained_is_still_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError

    monkeypatch.setattr("graphprune.verify.validation.where_they_part", broken)
    given = subject("Residual")
    check = check_masked(given.graph, given.kept, changed(given.pruned, "head.fc.weight"), FEW)
    assert not check.ok
    assert "first at" not in check.detail
