"""Einstein sums: every letter is a place, and those that the result lacks are summed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphprune.labels.value import Value
from graphprune.ops.products import Operand, sum_of_products
from graphprune.ops.registry import OpCall, UnsupportedCall, rule


@dataclass(frozen=True)
class Equation:
    """An equation with a name for every dim.

    Args:
        terms: Names of every operand's dims; those that an ellipsis stands for are counted from
            the last of them, ``"...1"``.
        result: Names of the result's dims.
    """

    terms: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]

    @property
    def summed(self) -> tuple[str, ...]:
        """Names that the result lacks, in order of appearance."""
        names = dict.fromkeys(name for term in self.terms for name in term)
        return tuple(name for name in names if name not in self.result)


def read_equation(equation: str, ranks: Sequence[int]) -> Equation:
    """Name all dims of an equation's operands and result.

    Args:
        equation: As ``torch.einsum`` takes it.
        ranks: Numbers of dims of the operands.
    """
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    hidden = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    named = tuple(_names(term, count) for term, count in zip(terms, hidden, strict=True))
    if arrow:
        return Equation(named, _names(output, max(hidden)))
    letters = sorted(letter for letter in set(inputs) - set(",.") if inputs.count(letter) == 1)
    return Equation(named, (*_names("...", max(hidden)), *letters))


def _names(term: str, hidden: int) -> tuple[str, ...]:
    before, ellipsis, after = term.partition("...")
    places = [f"...{k}" for k in range(hidden, 0, -1)] if ellipsis else []
    return (*before, *places, *after)


@rule("aten.einsum.default")
def einsum(call: OpCall) -> Value:
    """Sum of products over the letters that do not appear in the result."""
    operands: list[Value] = list(call.get(1))
    equation = read_equation(str(call.get(0)), [value.rank for value in operands])
    if any(len(set(term)) < len(term) for term in equation.terms):
        raise UnsupportedCall(f"a diagonal, in {call.get(0)!r}")
    names = [*equation.result, *equation.summed]
    placed = [
        Operand((1, k), value, tuple(names.index(name) for name in term))
        for k, (value, term) in enumerate(zip(operands, equation.terms, strict=True))
    ]
    summed = range(len(equation.result), len(names))
    return sum_of_products(call, placed, summed, call.shape)
