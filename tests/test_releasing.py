"""Releasing memory: what is given up keeps its shape, and reads as no number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphprune import releasing
from graphprune.graph import trace
from graphprune.releasing import WORTH_RELEASING, give_up_weights, release, size_of
from graphprune.tracing import named_tensors


def test_given_up_weights_take_no_memory_and_are_no_numbers() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 6)).eval()
    network[2].weight = nn.Parameter(network[0].weight.detach().mT)
    graph = trace(network, (torch.randn(2, 6),))
    traced = graph.program.module
    before = {name: (x.shape, x.dtype) for name, x in named_tensors(traced).items()}

    give_up_weights(traced)

    after = named_tensors(traced)
    assert {name: (x.shape, x.dtype) for name, x in after.items()} == before
    assert {x.untyped_storage().nbytes() // x.element_size() for x in after.values()} == {1}
    assert bool(traced(torch.randn(2, 6)).isnan().all())
    assert not bool(network(torch.randn(2, 6)).isnan().any())  # the model itself has its own


def test_what_a_network_takes_counts_shared_weights_once_and_those_given_up() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(6, 5)).double()
    network[2].weight = network[0].weight
    weights, biases, statistics = 30, 2 * 5, 4 * 5
    expected = 8 * (weights + biases + statistics) + 8  # and how many batches there were
    assert size_of(network) == expected
    give_up_weights(network)
    assert size_of(network) == expected


def test_only_copies_of_large_networks_are_collected_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collected: list[str] = []
    monkeypatch.setattr(releasing.gc, "collect", lambda: collected.append("all"))
    release(WORTH_RELEASING - 1)
    assert collected == []
    release(WORTH_RELEASING)
    assert collected == ["all"]
