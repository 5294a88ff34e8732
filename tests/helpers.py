"""Oracles that every network of the tests goes through."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from graphprune.coalition import removed_entries
from graphprune.game.masking import gated_module, mask_network, unit_gates
from graphprune.graph import DependencyGraph, Kept, trace
from graphprune.surgery import PrunedModel, cut

TOLERANCE = 1e-9
"""Largest error, relative to the output's scale, that float64 rounding may cause."""


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms random statistics and parameters, so that no channel is like another."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Any, low: float, high: float) -> None:
        if isinstance(tensor, Tensor):
            with torch.no_grad():
                tensor.uniform_(low, high, generator=generator)

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            uniform(module.running_mean, -0.5, 0.5)
            uniform(module.running_var, 0.5, 2.0)
        if "Norm" in type(module).__name__:
            uniform(getattr(module, "weight", None), 0.5, 1.5)
            uniform(getattr(module, "bias", None), -0.5, 0.5)
    return model


def double(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the inputs with floating tensors in float64."""

    def of(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return pytree.tree_map(of, inputs)


def batch_of(inputs: tuple[Any, ...], size: int, seed: int) -> tuple[Any, ...]:
    """Return fresh random inputs of the same kinds with another batch size."""
    generator = torch.Generator().manual_seed(seed)

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim():
            return leaf
        shape = (size, *leaf.shape[1:])
        if leaf.is_floating_point():
            return torch.randn(shape, generator=generator, dtype=leaf.dtype)
        high = int(leaf.max()) + 1
        return torch.randint(0, high, shape, generator=generator).to(leaf.dtype)

    return pytree.tree_map(of, inputs)


def random_kept(graph: DependencyGraph, ratio: float, seed: int) -> Kept:
    """Remove about ``ratio`` of every group's units at random, one at least where that can be."""
    rng = np.random.default_rng(seed)
    kept = graph.all_kept()
    for group in graph.groups:
        count = min(max(round(ratio * len(group)), 1), len(group) - 1)
        kept[group.first + rng.permutation(len(group))[:count]] = False
    for needed in graph.needed:
        if not kept[needed].any():
            kept[rng.choice(needed)] = True
    return kept


def leaves(outputs: Any) -> list[Tensor]:
    """Return all tensors of a model's output."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


@torch.no_grad()
def run(module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Return all tensors that a module computes."""
    return leaves(module(*inputs))


def error(left: Iterable[Tensor], right: Iterable[Tensor]) -> float:
    """Return the largest difference relative to the scale of ``right``; NaN counts as infinite."""
    worst = 0.0
    for a, b in zip(left, right, strict=True):
        assert a.shape == b.shape
        difference = (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
        scale = max(1.0, b.double().abs().max().item()) if b.numel() else 1.0
        worst = max(worst, np.inf if math.isnan(difference) else difference / scale)
    return worst


def zeroed(model: nn.Module, graph: DependencyGraph, kept: Kept) -> dict[str, Tensor]:
    """Return the original's state with every slice that a plan removes set to zero."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, by_dim in removed_entries(graph, kept).items():
        for dim, indices in by_dim.items():
            if name in state:
                state[name].index_fill_(dim, torch.tensor(indices), 0)
    return state


@torch.no_grad()
def run_zeroed(
    model: nn.Module, graph: DependencyGraph, kept: Kept, inputs: tuple[Any, ...]
) -> list[Tensor]:
    """Run the original module itself with the removed slices zeroed."""
    return leaves(functional_call(model, zeroed(model, graph, kept), inputs, tie_weights=False))


def assert_exact(
    model: nn.Module,
    inputs: tuple[Any, ...],
    *,
    ratio: float = 0.3,
    seeds: Iterable[int] = (0, 1),
    batches: Iterable[int] = (2, 3),
    oracle: bool = True,
    tolerance: float = TOLERANCE,
) -> DependencyGraph:
    """Check that masked = pruned, that an intact network is the original, and zeroed slices.

    Args:
        model: The network; put into float64 and evaluation mode.
        inputs: Example inputs.
        ratio: Share of every group's units that goes.
        seeds: One random plan each.
        batches: Batch sizes to compare on; other than the traced one where the batch is dynamic.
        oracle: Compare with zeroed slices where no statistic runs over a pruned axis.
        tolerance: Largest relative error.
    """
    model = model.double().eval()
    inputs = double(inputs)
    graph = trace(model, inputs)
    intact = mask_network(graph, graph.all_kept())
    for seed in seeds:
        kept = random_kept(graph, ratio, seed)
        masked, pruned = mask_network(graph, kept), cut(graph, kept)
        for size in batches if graph.program.dynamic_batch else (graph.batch_size,):
            fresh = batch_of(inputs, size, seed)
            assert error(run(intact, fresh), run(model, fresh)) <= tolerance
            assert error(run(masked, fresh), run(pruned, fresh)) <= tolerance
            if oracle and not any(graph.statistics()):
                assert error(run_zeroed(model, graph, kept, fresh), run(pruned, fresh)) <= tolerance
        assert_smaller(graph, pruned, kept)
    return graph


def assert_smaller(graph: DependencyGraph, pruned: PrunedModel, kept: Kept) -> None:
    """Check that exactly the removed entries are missing from the pruned network's tensors."""
    removed = removed_entries(graph, kept)
    sizes = dict(pruned.named_parameters(remove_duplicate=False))
    sizes.update(pruned.named_buffers(remove_duplicate=False))
    for name, by_dim in removed.items():
        before = graph.parameter_units[name]
        for dim, indices in by_dim.items():
            assert sizes[name].shape[dim] == before[dim].size - len(indices)


def assert_samplewise(graph: DependencyGraph, *, ratio: float = 0.3, size: int = 3) -> None:
    """Check that a batch with one coalition per sample computes what one by one computes."""
    gated = gated_module(graph).eval()
    rows = torch.from_numpy(np.stack([random_kept(graph, ratio, seed) for seed in range(size)]))
    gates = unit_gates(rows, torch.float64)
    flat = pytree.tree_leaves(batch_of(graph.example_inputs, size, 0))
    together = run(gated, (gates, *flat))
    for k in range(size):
        alone = run(gated, (gates[k], *flat))
        for batched, single in zip(together, alone, strict=True):
            per_sample = batched.shape[0] // size
            span = slice(k * per_sample, (k + 1) * per_sample)
            assert error([batched[span]], [single[span]]) <= TOLERANCE
