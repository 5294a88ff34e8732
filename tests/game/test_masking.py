"""Gates: laid along axes, differentiable, and only where units may be absent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from graphprune.errors import OptionError
from graphprune.game.masking import (
    gated_module,
    lay_folded_gates,
    lay_gates,
    mask_network,
    shared_gates,
    unit_gates,
)
from graphprune.graph import trace
from graphprune.surgery import cut
from tests.helpers import batch_of, error, random_kept, run
from tests.networks import NETWORKS


def test_unit_gates_end_with_a_constant() -> None:
    kept = torch.tensor([True, False])
    assert unit_gates(kept).tolist() == [1.0, 0.0, 1.0]
    assert unit_gates(kept[None].expand(3, 2), torch.float64).shape == (3, 3)


def test_lay_gates_by_sample() -> None:
    gates = torch.tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]])
    index = torch.tensor([1, 2, 0])
    assert lay_gates(gates[0], index, 3, 1, (0, 1, 1)).tolist() == [[[2.0], [9.0], [1.0]]]
    laid = lay_gates(gates, index, 3, 2, (0, 1, 1))
    assert laid.shape == (2, 1, 3)
    assert laid[1, 0].tolist() == [4.0, 9.0, 3.0]
    # Two entries a sample next to each other; then all samples twice over.
    assert lay_gates(gates, index, 2, 1, (0, 1, 2))[:, 2].tolist() == [1.0, 1.0, 3.0, 3.0]
    assert lay_gates(gates, index, 2, 1, (0, 2, 1))[:, 2].tolist() == [1.0, 3.0, 1.0, 3.0]
    assert lay_gates(gates, index, 2, 0, (1, 1, 1))[2].tolist() == [1.0, 3.0]


def test_lay_gates_along_the_batch() -> None:
    gates = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    index, x = torch.tensor([0, 1]), torch.zeros(4, 1)
    assert lay_folded_gates(gates, index, x, (0, 1, 2))[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert lay_folded_gates(gates, index, x, (0, 2, 1))[:, 0].tolist() == [1.0, 3.0, 2.0, 4.0]
    assert lay_folded_gates(gates[0], index, x, (0, 2, 1))[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0]


def test_gates_of_a_tensor_without_a_batch_must_agree() -> None:
    with pytest.raises(OptionError, match="different coalitions"):
        shared_gates(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    rows = torch.ones(2, 3, requires_grad=True)
    shared_gates(rows).sum().backward()
    assert rows.grad is not None
    assert rows.grad.tolist() == [[0.5] * 3] * 2


@pytest.mark.parametrize("name", ["Residual", "LayerNorm", "TorchAttention", "GroupNorm", "Attend"])
def test_gates_are_differentiable(name: str) -> None:
    network = NETWORKS[name]
    graph = trace(network.make(), network.inputs())
    gates = unit_gates(torch.ones(graph.n_units, dtype=torch.bool), torch.float64)
    gates.requires_grad_()
    flat = pytree.tree_leaves(network.inputs())
    sum(out.square().sum() for out in gated_module(graph)(gates, *flat)).backward()
    assert gates.grad is not None
    assert gates.grad.isfinite().all()
    assert gates.grad[:-1].any()


def test_a_gate_gradient_is_the_derivative() -> None:
    network = NETWORKS["Concat"]
    graph = trace(network.make(), network.inputs())
    gated, flat = gated_module(graph), pytree.tree_leaves(network.inputs())
    kept = torch.from_numpy(random_kept(graph, 0.3, 0))
    gates = unit_gates(kept, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: gated(g, *flat), (gates,), atol=1e-6)


def test_only_active_units_are_gated() -> None:
    network = NETWORKS["Residual"]
    graph = trace(network.make(), network.inputs())
    active = np.zeros(graph.n_units, bool)
    active[graph.group("a.0.weight").span] = True

    def gates_in(units: np.ndarray | None) -> int:
        nodes = gated_module(graph, units).graph.nodes
        return sum(getattr(node.target, "__name__", "") == "apply_gate" for node in nodes)

    assert gates_in(None) == 3
    assert gates_in(active) == 1
    assert gates_in(np.zeros(graph.n_units, bool)) == 0
    kept = graph.all_kept()
    kept[graph.group("a.0.weight").first] = False
    fresh = batch_of(network.inputs(), 3, 0)
    assert error(run(mask_network(graph, kept), fresh), run(cut(graph, kept), fresh)) <= 1e-12


def test_a_masked_network_owns_its_weights() -> None:
    network = NETWORKS["Residual"]
    graph = trace(network.make(), network.inputs())
    masked = mask_network(graph, graph.all_kept()).float()
    assert all(p.dtype == torch.float64 for p in graph.program.module.parameters())
    inputs = tuple(x.float() for x in network.inputs())
    assert masked(*inputs).dtype == torch.float32
