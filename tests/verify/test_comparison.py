"""Comparisons: each kind of difference is seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphprune.verify import Check
from graphprune.verify.comparison import Pair, compare
from graphprune.verify.tolerances import Limit

STANDARD = Limit(relative=1e-4)


def compared(reference: Tensor, other: Tensor, limit: Limit = STANDARD) -> Check:
    pair = Pair(name="output 0", place=0, case="batch 2", reference=reference, other=other)
    return compare("check", [pair], limit)


def test_equal_outputs_pass() -> None:
    check = compared(torch.ones(2, 3), torch.ones(2, 3))

    assert check.ok
    assert check.max_abs == 0
    assert check.cosine == pytest.approx(1)
    assert "bit for bit" in check.detail


def test_the_error_is_relative_to_the_scale_of_the_whole_output() -> None:
    reference = torch.tensor([1000.0, 0.0])
    other = torch.tensor([1000.0, 0.05])

    check = compared(reference, other)

    assert check.max_abs == pytest.approx(0.05)
    assert check.max_rel == pytest.approx(5e-5)
    assert check.ok
    assert not compared(reference, other, Limit(relative=1e-5)).ok
    assert compared(reference, other, Limit(relative=1e-5, absolute=0.1)).ok


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (torch.ones(2, 4), "shape"),
        (torch.ones(2, 3).double(), "dtype"),
        (torch.full((2, 3), float("nan")), "NaN"),
        (torch.full((2, 3), float("inf")), "NaN or infinity"),
        (-torch.ones(2, 3), "differs by 2"),
    ],
)
def test_what_differs_is_named(other: Tensor, words: str) -> None:
    check = compared(torch.ones(2, 3), other)

    assert not check.ok
    assert words in check.detail
    assert "output 0, batch 2" in check.detail


def test_nan_in_both_fails() -> None:
    broken = torch.full((2, 3), float("nan"))

    assert not compared(broken, broken).ok


def test_anything_but_zero_fails_where_the_reference_is_zero() -> None:
    assert compared(torch.zeros(3), torch.zeros(3)).ok
    assert not compared(torch.zeros(3), torch.full((3,), 1e-30)).ok


def test_integers_must_be_equal() -> None:
    assert compared(torch.arange(9), torch.arange(9)).ok
    assert not compared(torch.arange(9), torch.arange(9).flip(0)).ok


def test_an_empty_output_is_equal() -> None:
    assert compared(torch.ones(2, 0), torch.ones(2, 0)).ok


def test_the_worst_pair_is_kept() -> None:
    pairs = [
        Pair(
            name="output 0",
            place=0,
            case=f"batch {k}",
            reference=torch.ones(2),
            other=torch.ones(2) + d,
        )
        for k, d in enumerate((0.0, 3e-5, 1e-5))
    ]

    check = compare("check", pairs, STANDARD)

    assert check.ok
    assert "batch 1" in check.detail
    assert "of 3 runs" in check.detail


def test_errors_are_given_absolute_and_relative() -> None:
    reference = torch.full((1000,), 10.0)
    other = reference.clone()
    other[:5] += torch.tensor([1e-4, 2e-4, 3e-4, 4e-4, 5e-4])
    check = compared(reference, other)
    assert check.max_abs == pytest.approx(5e-4, rel=1e-2)
    assert check.max_rel == pytest.approx(5e-5, rel=1e-2)
    assert check.mean_abs == pytest.approx(1.5e-6, rel=1e-2)
    assert check.mean_rel == pytest.approx(1.5e-7, rel=1e-2)
    assert check.p99_abs == check.p99_rel == 0
