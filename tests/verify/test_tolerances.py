"""Tolerances: the narrowest word wins, and a misspelt one is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphprune.errors import OptionError
from graphprune.verify.tolerances import Limit, Limits, Tolerance, limits_for


def limits(
    network: nn.Module | None = None, *own: Tolerance, rtol: float | None = None, atol: float = 0.0
) -> Limits:
    return limits_for(network or nn.Linear(2, 2), ("logits", "mask"), rtol=rtol, atol=atol, own=own)


def test_the_coarsest_dtype_sets_the_tolerance() -> None:
    mixed = nn.Sequential(nn.Linear(2, 2).half(), nn.Linear(2, 2))
    assert limits().of(0).relative == 1e-4
    assert limits(mixed).of(0).relative == 1e-2
    assert limits(nn.Linear(2, 2).bfloat16()).of(0).relative == 1e-2
    assert limits(nn.Linear(2, 2).double()).of(0).relative == 1e-9
    assert limits(nn.ReLU()).of(0).relative == 1e-4


def test_an_output_goes_before_a_dtype_and_a_dtype_before_all() -> None:
    own = (
        Tolerance(of="mask", rtol=1e-1),
        Tolerance(of="mask", atol=2.0),
        Tolerance(of="float16", rtol=1e-3),
        Tolerance(of="float32", rtol=1e-5),
    )
    found = limits(None, *own, rtol=1e-6, atol=1.0)
    assert found.of(0) == Limit(relative=1e-5, absolute=1.0)
    assert found.of(1) == Limit(relative=1e-1, absolute=2.0)
    assert limits(nn.Linear(2, 2).half(), *own).of(0) == Limit(relative=1e-3)


def test_absolute_errors_count_without_relative_ones() -> None:
    assert limits(atol=0.5).of(1) == Limit(relative=1e-4, absolute=0.5)


def test_outputs_go_by_the_name_that_the_file_gives_them() -> None:
    assert limits().name(1) == "output 1 (mask)"
    assert limits().name(2) == "output 2"
    assert limits().of(2) == limits().default


def test_a_tolerance_of_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match=r"'logit'.*logits, mask.*float16"):
        limits(None, Tolerance(of="logit", rtol=1.0))


def test_every_floating_dtype_has_a_name() -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        limits(None, Tolerance(of=str(dtype).removeprefix("torch."), rtol=1.0))
