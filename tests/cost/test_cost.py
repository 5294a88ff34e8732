"""Costs against networks that are really cut, and counted by somebody else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graphprune.cost import Cost, CostModel
from graphprune.graph import DependencyGraph, trace
from graphprune.surgery import cut
from tests.helpers import batch_of, random_kept
from tests.networks import NETWORKS
from tests.traced import traced


@pytest.fixture(params=NETWORKS)
def graph(request: pytest.FixtureRequest) -> DependencyGraph:
    return traced(request.param)


def counted(module: torch.nn.Module, graph: DependencyGraph) -> tuple[int, int]:
    """Return parameters that the forward reads, and multiply-accumulates of one sample."""
    unused = set(graph.program.unused)
    params = {
        id(parameter): parameter.numel()
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if name not in unused
    }
    # On the meta device attention is decomposed, so that its products are counted.
    inputs = batch_of(graph.example_inputs, 4, 0)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        module(*inputs)
    return sum(params.values()), flops.get_total_flops() // 2 // 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [0, 1])
def test_costs_are_those_of_the_cut_network(graph: DependencyGraph, seed: int) -> None:
    costs = CostModel(graph)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for kept in (graph.all_kept(), random_kept(graph, 0.4, seed)):
            found = costs.total(kept)
            assert (found.params, found.macs) == counted(cut(graph, kept), graph)
            assert found.units == kept.sum()


def test_a_units_cost_is_what_goes_with_it(graph: DependencyGraph) -> None:
    costs = CostModel(graph)
    whole = costs.total(graph.all_kept())
    for unit in range(0, graph.n_units, 3):
        kept = graph.all_kept()
        kept[unit] = False
        rest = costs.total(kept)
        for kind in ("units", "params", "macs"):
            saved = whole.of(kind) - rest.of(kind)
            assert costs.marginal(kind)[unit] == pytest.approx(saved, abs=0.51)
            assert saved >= (kind != "macs")


def test_a_units_cost_in_a_coalition_is_what_goes_or_comes_with_it(graph: DependencyGraph) -> None:
    costs = CostModel(graph)
    coalition = random_kept(graph, 0.4, 0)
    for kind in ("params", "macs"):
        found = costs.marginal(kind, coalition)
        for unit in range(0, graph.n_units, 3):
            with_it, without_it = coalition.copy(), coalition.copy()
            with_it[unit], without_it[unit] = True, False
            saved = costs.total(with_it).of(kind) - costs.total(without_it).of(kind)
            assert found[unit] == pytest.approx(saved, abs=1.01)


def test_by_hand() -> None:
    """Residual: stem 3->8, a 8->6, b 6->8 (all 3x3 on 8x8 positions), fc 8->5."""
    graph = traced("Residual")
    costs = CostModel(graph)
    convolutions = 3 * 8 * 9 + 8 * 6 * 9 + 6 * 8 * 9
    norms, biases = 2 * 8 + 2 * 6, 8 + 5
    assert costs.total(graph.all_kept()) == Cost(
        units=14, params=convolutions + norms + biases + 40, macs=convolutions * 64 + 40
    )
    kept = graph.all_kept()
    kept[graph.group("a.0.weight").first] = False
    saved = 8 * 9 + 8 * 9
    assert costs.total(kept).macs == (convolutions - saved) * 64 + 40
    assert costs.marginal("macs")[graph.group("a.0.weight").span] == pytest.approx(saved * 64)
    np.testing.assert_array_equal(costs.marginal("units"), np.ones(14))


def test_costs_do_not_depend_on_the_batch_that_was_traced() -> None:
    network = NETWORKS["PackedAttention"]
    small = trace(network.make(), network.inputs())
    large = trace(network.make(), batch_of(network.inputs(), 6, 0))
    assert CostModel(small).total(small.all_kept()) == CostModel(large).total(large.all_kept())
