"""Walks: node by node on all batches, with values in memory or in files."""

from __future__ import annotations

import pytest
import torch

from graphprune.repairs.lockstep import Walk, shelf
from tests.networks import traced


@pytest.mark.parametrize("max_bytes", [1 << 30, 0])
def test_a_walk_computes_what_the_network_computes(max_bytes):
    module = traced("Residual").program.module
    shape = traced("Residual").example_inputs[0].shape[1:]
    batches = [(torch.randn(size, *shape, dtype=torch.float64),) for size in (2, 3)]
    (output,) = module.graph.find_nodes(op="output")
    last = output.all_input_nodes[0].name
    with shelf(max_bytes) as kept, torch.no_grad():
        walk = Walk(module, batches, {last: 1}, kept)
        walk.through(last)
        for index, (x,) in enumerate(batches):
            torch.testing.assert_close(walk.value(last, index), module(x))
            filed = walk.value(last, index).untyped_storage().filename
            assert bool(filed) == (max_bytes == 0)
        # Taken by whom it was kept for, and by the output.
        walk.take(last)
        walk.take(last)
        with pytest.raises(KeyError):
            walk.value(last, 0)


def test_values_go_when_nothing_needs_them():
    module = traced("Residual").program.module
    x = torch.randn(2, *traced("Residual").example_inputs[0].shape[1:], dtype=torch.float64)
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    with shelf(1 << 30) as kept, torch.no_grad():
        walk = Walk(module, [(x,)], {}, kept)
        walk.through(calls[-1].name)
        for node in calls[:-1]:
            if all(user in calls for user in node.users):
                with pytest.raises(KeyError):
                    walk.value(node.name, 0)
