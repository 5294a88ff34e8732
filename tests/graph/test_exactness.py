"""Masked = pruned = zeroed slices, on every small network and on random ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.errors import OptionError
from graphprune.game.masking import gated_module, mask_network, unit_gates
from graphprune.graph import trace
from graphprune.surgery import cut
from tests.generated import PIECES, generate
from tests.helpers import assert_exact, assert_samplewise, batch_of, error, random_kept, run
from tests.networks import NETWORKS, Network, traced


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]


def test_network_is_exact_and_grouped_as_by_hand(network: Network) -> None:
    model, inputs = network.make(), network.inputs()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = assert_exact(model, inputs)
    assert {group.name: len(group) for group in graph.groups} == network.groups
    assert graph.program.dynamic_batch
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


SHARED = ("WeightStandardisation",)
"""Networks with units in weights that are computed once for the whole batch."""


@pytest.mark.parametrize("name", SHARED)
def test_units_of_weights_have_one_coalition_for_a_batch(name: str) -> None:
    with pytest.raises(OptionError, match="computed once for the whole batch"):
        assert_samplewise(traced(name))
    graph = traced(name)
    kept = torch.from_numpy(random_kept(graph, 0.3, 0))
    gates = unit_gates(kept, torch.float64)
    fresh = batch_of(graph.example_inputs, 3, 0)
    gated = gated_module(graph)
    assert error(run(gated, (gates.expand(3, -1), *fresh)), run(gated, (gates, *fresh))) <= 1e-12


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in SHARED])
def test_one_coalition_per_sample_equals_one_by_one(name: str) -> None:
    assert_samplewise(traced(name))


def test_single_units_are_exact() -> None:
    """All but one unit of every group gone: axes of size 1 must not be squeezed away."""
    for name in ("Residual", "Squeezed", "Windows", "GroupNorm", "GroupedWhole", "Einsum"):
        network = NETWORKS[name]
        assert_exact(network.make(), network.inputs(), ratio=1.0, seeds=(0,), batches=(3,))


@pytest.mark.parametrize("name", NETWORKS)
def test_units_are_ordered_along_the_axis_that_names_the_group(name: str) -> None:
    graph = traced(name)
    for group in graph.groups:
        firsts = []
        for unit in group.units:
            (own,) = [
                s for s in unit.slices if (s.parameter, s.dim) == (group.parameter, group.dim)
            ]
            firsts.append(own.indices[0])
        assert firsts == sorted(firsts)


@settings(max_examples=20)
@given(
    kinds=st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=5),
    flatten=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_networks_are_exact(kinds: list[int], flatten: bool, seed: int) -> None:
    model = generate(kinds, flatten=flatten, seed=seed)
    inputs = (torch.randn(2, 3, 4, 4, dtype=torch.float64),)
    graph = assert_exact(model, inputs, seeds=(seed,), batches=(3,))
    assert not graph.unknown_ops
    # Nothing upstream can pin the last convolution's outputs.
    assert "mix.weight" in {group.name for group in graph.groups}


@pytest.mark.parametrize("kind", range(len(PIECES)), ids=[piece.__name__ for piece in PIECES])
def test_every_piece_is_exact(kind: int) -> None:
    model = generate([kind, kind, 0], flatten=True, seed=kind)
    graph = assert_exact(model, (torch.randn(2, 3, 4, 4),), seeds=(1,), batches=(3,))
    assert_samplewise(graph)


def test_analysis_does_not_depend_on_the_run() -> None:
    network = NETWORKS["Windows"]
    first, second = (trace(network.make(), network.inputs()) for _ in range(2))
    assert [g.name for g in first.groups] == [g.name for g in second.groups]
    for one, other in zip(first.groups, second.groups, strict=True):
        assert one.units == other.units


def test_float32_is_close() -> None:
    network = NETWORKS["PackedAttention"]
    model = network.make().float()
    inputs = tuple(x.float() for x in network.inputs())
    graph = trace(model, inputs)
    kept = random_kept(graph, 0.4, 0)
    fresh = batch_of(inputs, 3, 0)
    masked = run(mask_network(graph, kept), fresh)
    assert error(masked, run(cut(graph, kept), fresh)) < 1e-5
    assert not np.array_equal(masked[0], run(model, fresh)[0])
