"""Masked kernels: finite where nothing is kept, and equal to the op on what is kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graphprune.labels.coupler import Coupler, Reports, Statistic
from graphprune.labels.value import Value
from graphprune.ops import OpCall, rule_for
from graphprune.ops.kept import overload_of, run

# Overload -> what follows the tensor, in schema order; the statistic runs along dim 1.
KERNELS: dict[str, tuple[Any, ...]] = {
    "aten.amax.default": ([1], True),
    "aten.amin.default": ([1], False),
    "aten.max.dim": (1, True),
    "aten.min.dim": (1, False),
    "aten.aminmax.default": (1, True),
    "aten.logsumexp.default": ([1], True),
    "aten.prod.dim_int": (1, True, None),
    "aten.mean.dim": ([1], True, None),
    "aten.nanmean.default": ([1], True, None),
    "aten.var.correction": ([1], 0, True),
    "aten.std.correction": ([1], 0, False),
    "aten.std.dim": ([1], False, True),
    "aten.var_mean.correction": ([1], 0, True),
    "aten.std_mean.correction": ([1], 0, True),
    "aten.softmax.int": (1, None),
    "aten.log_softmax.int": (1, None),
    "aten._softmax.default": (1, False),
    "aten._log_softmax.default": (1, False),
    "aten._safe_softmax.default": (1, None),
    "aten.cumprod.default": (1, None),
    "aten.cummax.default": (1,),
    "aten.logcumsumexp.default": (1,),
    "aten.layer_norm.default": ([4], None, None, 1e-5, True),
    "aten.rms_norm.default": ([4], None, 1e-5),
    "aten.group_norm.default": (1, None, None, 1e-5, True),
    "aten.native_layer_norm.default": ([4], None, None, 1e-5),
}


def kernel_of(overload: str, arguments: tuple[Any, ...]) -> Statistic:
    """Return what an op's rule reports on a tensor (3, 4)."""
    x = torch.randn(3, 4)
    made = run(overload_of(overload), x, *arguments)
    shapes = tuple(tuple(r.shape) for r in (made if isinstance(made, tuple) else (made,)))
    value = Value((3, 4), (np.arange(1, 5).reshape(1, 4),))
    reports = Reports(n_atoms=5)
    read = (True, *[False] * (len(shapes) - 1))
    rule = rule_for(overload)
    assert rule is not None
    rule(OpCall(Coupler("op", reports), (value, *arguments), shapes, read, overload))
    (statistic,) = reports.statistics
    return statistic


def first(made: Any) -> Tensor:
    return made[0] if isinstance(made, tuple) else made


@pytest.mark.parametrize("overload", KERNELS)
def test_kernel_is_finite_where_nothing_is_kept(overload: str) -> None:
    arguments = KERNELS[overload]
    statistic = kernel_of(overload, arguments)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    made = first(statistic.kernel(mask, x, *arguments))
    assert made.isfinite().all()
    if made.requires_grad:
        made.square().sum().backward()
        assert x.grad is None or x.grad.isfinite().all()
        assert mask.grad is None or mask.grad.isfinite().all()


@pytest.mark.parametrize("overload", KERNELS)
def test_kernel_counts_what_is_kept(overload: str) -> None:
    arguments = KERNELS[overload]
    statistic = kernel_of(overload, arguments)
    x = torch.randn(3, 4, dtype=torch.float64)
    mask = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    short = tuple([3] if argument == [4] else argument for argument in arguments)
    kept = x[:, [0, 2, 3]]
    expected = first(run(overload_of(overload), kept, *short))
    made = first(statistic.kernel(mask, x, *arguments))
    if made.shape == x.shape:
        made = made[:, [0, 2, 3]]
    assert torch.allclose(made, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "least"),
    [(torch.int64, -(2**63)), (torch.bool, False), (torch.float32, -math.inf)],
)
def test_minus_infinity_of_every_dtype(dtype: torch.dtype, least: float) -> None:
    statistic = kernel_of("aten.amax.default", ([1], True))
    x = torch.ones(3, 4).to(dtype)
    mask = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    x[:, 2] = least
    assert (statistic.kernel(mask, x, [1], True) == least).all()
