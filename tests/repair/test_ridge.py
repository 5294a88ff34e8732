"""Ridge regression: the same solution however rows arrive, and whichever side is smaller."""

from __future__ import annotations

import pytest
import torch

from graphprune.errors import SurgeryError
from graphprune.repairs.ridge import LeastSquares


def rows(count: int, columns: int, *, groups: int = 2, outputs: int = 3):
    generator = torch.Generator().manual_seed(count)
    draw = {"generator": generator, "dtype": torch.float64}
    return torch.randn(groups, count, columns, **draw) + 1, torch.randn(
        groups, count, outputs, **draw
    )


def explicit(columns, residuals, strength, *, intercept):
    """Append the ridge as rows and let torch solve it."""
    found = []
    for u, r in zip(columns, residuals, strict=True):
        ridge = (strength * u.square().mean() * len(u)).sqrt() * torch.eye(u.shape[1]).double()
        zeros = torch.zeros(len(ridge), 1, dtype=torch.float64)
        ones = torch.ones(len(u), 1, dtype=torch.float64) * intercept
        left = torch.cat([torch.cat([u, ones], 1), torch.cat([ridge, zeros], 1)])
        right = torch.cat([r, torch.zeros(len(ridge), r.shape[1], dtype=torch.float64)])
        found.append(torch.linalg.lstsq(left, right, driver="gelsd").solution)
    solution = torch.stack(found)
    return solution[:, :-1].mT, solution[:, -1]


@pytest.mark.parametrize("count", [40, 5])
@pytest.mark.parametrize("intercept", [True, False])
def test_solutions_are_those_of_an_explicit_ridge(count, intercept):
    columns, residuals = rows(count, 8)
    problem = LeastSquares(intercept=intercept)
    problem.add(columns, residuals)
    for strength, change in zip((1e-3, 1.0), problem.solutions((1e-3, 1.0)), strict=True):
        weight, bias = explicit(columns, residuals, strength, intercept=intercept)
        torch.testing.assert_close(change.weight, weight, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(change.bias, bias, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("count", [40, 5])
def test_parts_make_no_difference(count):
    columns, residuals = rows(count, 8)
    whole, parts = LeastSquares(intercept=True), LeastSquares(intercept=True)
    whole.add(columns, residuals)
    for start in range(0, count, 3):
        parts.add(columns[:, start : start + 3], residuals[:, start : start + 3])
    for one, other in zip(whole.solutions((1e-2,)), parts.solutions((1e-2,)), strict=True):
        torch.testing.assert_close(one.weight, other.weight)
        torch.testing.assert_close(one.bias, other.bias)
    torch.testing.assert_close(parts.shift().bias, residuals.mean(1))


def test_columns_that_repeat_each_other_have_a_solution():
    columns, residuals = rows(40, 4)
    problem = LeastSquares(intercept=True)
    problem.add(torch.cat([columns, columns], 2), residuals)
    (change,) = problem.solutions((0.0,))
    twice = torch.cat([columns, columns], 2) @ change.weight.mT + change.bias[:, None]
    weight, bias = explicit(columns, residuals, 0.0, intercept=True)
    torch.testing.assert_close(twice, columns @ weight.mT + bias[:, None], rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_is_refused():
    columns, residuals = rows(40, 8)
    columns[0, 0, 0] = torch.inf
    problem = LeastSquares(intercept=True)
    problem.add(columns, residuals)
    with pytest.raises(SurgeryError, match="not finite"):
        list(problem.solutions((1e-3,)))


@pytest.mark.parametrize("count", [40, 5])
@pytest.mark.parametrize("intercept", [True, False])
def test_other_residuals_of_the_same_columns_are_another_problem(count, intercept):
    columns, residuals = rows(count, 8)
    problem, explicitly = LeastSquares(intercept=intercept), LeastSquares(intercept=intercept)
    starts = range(0, count, 10)
    parts = [(columns[:, s : s + 10], residuals[:, s : s + 10]) for s in starts]
    for part in parts:
        problem.add(*part)
    others = [(columns, 2 - residuals.square()) for columns, residuals in parts]
    for part in others:
        explicitly.add(*part)
    (before,) = problem.solutions((1e-2,))
    (found,) = problem.aimed(others).solutions((1e-2,))
    (expected,) = explicitly.solutions((1e-2,))
    torch.testing.assert_close(found.weight, expected.weight)
    torch.testing.assert_close(found.bias, expected.bias)
    torch.testing.assert_close(problem.aimed(others).shift().bias, explicitly.shift().bias)
    (after,) = problem.solutions((1e-2,))
    torch.testing.assert_close(after.weight, before.weight)
