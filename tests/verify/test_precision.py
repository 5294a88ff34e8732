"""Networks in float64: casts written into graphs are widened, originals stay."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.game.masking import mask_network
from graphprune.graph import trace
from graphprune.surgery import cut
from graphprune.verify import as_double, precision, same_weights
from tests.export.subjects import subject
from tests.helpers import random_kept, run

_TO_COPY = torch.ops.aten._to_copy.default


def inputs() -> Tensor:
    return torch.randn(2, 64)


class HalfNorm(nn.Module):
    """Computes in bfloat16, with a norm that casts to float32, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x).float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
        return self.out(y.to(x.dtype))


def test_casts_in_graphs_are_widened() -> None:
    graph = trace(HalfNorm().bfloat16(), (torch.randn(2, 6, dtype=torch.bfloat16),))
    kept = random_kept(graph, 0.3, 0)
    x = torch.randn(5, 6, dtype=torch.float64)

    pruned, masked = as_double(cut(graph, kept)), as_double(mask_network(graph, kept))

    (a,), (b,) = run(pruned, (x,)), run(masked, (x,))
    assert a.dtype == torch.float64
    assert (a - b).abs().max() < 1e-12 * a.abs().max()


def test_the_network_itself_stays() -> None:
    pruned = subject("Residual").pruned
    code = pruned.code

    as_double(pruned)

    assert {p.dtype for p in pruned.parameters()} == {torch.float32}
    assert pruned.code == code


def test_same_weights_sees_every_kind_of_difference() -> None:
    pruned, other = subject("DictOutputs").pruned, subject("DictOutputs").pruned
    assert same_weights(pruned, other).ok

    with torch.no_grad():
        other.get_buffer("norm.running_mean").add_(1)
    check = same_weights(pruned, other)
    assert not check.ok
    assert "norm.running_mean has other values" in check.detail
    assert same_weights(pruned, other, changed=("norm.running_mean",)).ok

    other = subject("DictOutputs").pruned
    other.get_parameter("head.bias").requires_grad_(True)
    assert "head.bias is trainable" in same_weights(pruned, other).detail

    other = subject("DictOutputs").pruned
    other.get_submodule("b").weight = nn.Parameter(other.get_parameter("a.weight").detach().clone())
    assert "tied" in same_weights(pruned, other).detail

    assert "no a.weight" in same_weights(pruned, nn.Linear(2, 2)).detail
    assert not same_weights(pruned, subject("DictOutputs").pruned.half()).ok


def test_weights_of_graphs_are_not_held_again() -> None:
    graph = trace(HalfNorm().bfloat16(), (torch.randn(2, 6, dtype=torch.bfloat16),))
    kept = random_kept(graph, 0.3, 0)
    masked = mask_network(graph, kept, shared=True)
    traced = {tensor.data_ptr() for tensor in graph.program.module.parameters()}
    assert {tensor.data_ptr() for tensor in masked.parameters()} <= traced
    assert list(as_double(masked).parameters()) == []


class Tied(nn.Module):
    """One weight looks up tokens and makes predictions; its rows are scaled besides."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.up = nn.Embedding(33, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        found = self.up(self.tokens(x))
        return functional.linear(found, self.tokens.weight) * self.tokens.weight.sum()


def test_large_weights_are_widened_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = Tied(), torch.randint(0, 33, (2, 5))
    module = trace(network, (x,)).program.module
    with torch.no_grad():
        expected = copy.deepcopy(network).double()(x)
    monkeypatch.setattr(precision, "_PART", 24)
    sizes: list[int] = []

    class Widened(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: object, types: object, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> object:
            made = func(*args, **(kwargs or {}))  # type: ignore[operator]
            if func is _TO_COPY and made.dim() == 2:
                sizes.append(made.numel())
            return made

    with Widened(), torch.no_grad():
        found = as_double(module)(x)

    assert found.dtype == torch.float64
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    # What sums up the whole weight gets it whole; what it looks up and computes rows of does not.
    assert sorted(sizes)[-1] == 33 * 6
    assert sorted(sizes)[-2] <= 24


def test_weights_are_widened_one_at_a_time() -> None:
    graph = trace(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)), (inputs(),))
    alive, most = 0, 0

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: object, types: object, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> object:
            nonlocal alive, most
            made = func(*args, **(kwargs or {}))  # type: ignore[operator]
            if isinstance(made, Tensor) and made.shape == (64, 64) and func is _TO_COPY:
                alive += 1
                most = max(most, alive)
                weakref.finalize(made, released)
            return made

    def released() -> None:
        nonlocal alive
        alive -= 1

    wide = as_double(graph.program.module)
    with Counting(), torch.no_grad():
        wide(inputs().double())
    assert most == 1
