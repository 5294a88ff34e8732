"""Releasing memory: what is given up keeps its shape, and reads as no number."""

from __future__ import annotations

import torch
from torch import nn

from graphprune.graph import trace
from graphprune.releasing import give_up_weights
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
