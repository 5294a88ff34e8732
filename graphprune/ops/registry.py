"""The registry of op rules: what each ATen overload couples, and how surgery resizes it.

A rule is a function from an :class:`OpCall` to the value (or values) of the op's result, decorated
with the exact names of the overloads it is for::

    @rule("aten.relu.default", "aten.gelu.default")
    def unary(call: OpCall) -> Value:
        return call.like(call.value(0))

An op whose arguments spell out sizes needs a second function, which rewrites those arguments when
the tensors shrink, see :func:`rewrite`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from graphprune.errors import OptionError
from graphprune.labels.coupler import Coupler
from graphprune.labels.value import Shape, Value
from graphprune.ops.kept import overload_of
from graphprune.ops.resize import Resize

Result = Value | tuple[Value | None, ...]
Rule = Callable[["OpCall"], Result]
Rewrite = Callable[[Resize], None]

_RULES: dict[str, Rule] = {}
_REWRITES: dict[str, Rewrite] = {}


class UnsupportedCall(Exception):
    """A rule does not cover this call of its op; the axes that enter it are pinned."""


@dataclass(frozen=True, slots=True)
class OpCall:
    """One call of an op, as its rule sees it.

    Args:
        coupler: Where to report unions, pins, gates and statistics.
        arguments: All arguments in schema order, defaults filled in, tensors replaced by their
            values (``None`` for a tensor about which nothing is known).
        shapes: Shape of every result; one entry for an op that returns one tensor.
        read: Whether anything reads each result.
        name: The overload, for rules that serve several.
        symbolic: Dims of the first result whose size varies with the batch.
    """

    coupler: Coupler
    arguments: tuple[Any, ...]
    shapes: tuple[Shape, ...]
    read: tuple[bool, ...] = (True,)
    name: str = ""
    symbolic: frozenset[int] = frozenset()

    @property
    def shape(self) -> Shape:
        """Shape of the first (usually only) result."""
        return self.shapes[0]

    def value(self, position: int) -> Value:
        """Return a tensor argument.

        Raises:
            UnsupportedCall: The argument is not a tensor.
        """
        argument = self.arguments[position]
        if not isinstance(argument, Value):
            raise UnsupportedCall(f"argument {position} is not a tensor")
        return argument

    def optional(self, position: int) -> Value | None:
        """Return a tensor argument or None."""
        argument = self.arguments[position] if position < len(self.arguments) else None
        return argument if isinstance(argument, Value) else None

    def values(self) -> list[Value]:
        """Return all tensor arguments, lists flattened."""
        found: list[Value] = []
        for argument in self.arguments:
            entries = argument if isinstance(argument, (list, tuple)) else (argument,)
            found += [entry for entry in entries if isinstance(entry, Value)]
        return found

    def get(self, position: int, default: Any = None) -> Any:
        """Return any argument, ``default`` where the schema has fewer or it is None."""
        if position >= len(self.arguments) or self.arguments[position] is None:
            return default
        return self.arguments[position]

    def named(self, name: str, default: Any = None) -> Any:
        """Return an argument by its name in the schema, ``default`` where it has none or None."""
        position = _positions(self.name).get(name)
        return default if position is None else self.get(position, default)

    def dims(self, position: int, rank: int) -> tuple[int, ...]:
        """Return a dim or list of dims as non-negative integers; all dims if it is empty."""
        given = self.get(position)
        if given is None or (isinstance(given, Sequence) and not given):
            return tuple(range(rank))
        listed = given if isinstance(given, Sequence) else [given]
        return tuple(sorted(int(dim) % rank for dim in listed))

    def from_end(self, dims: Sequence[int]) -> tuple[int, ...]:
        """Count dims of the first tensor from the end, as masked kernels have to.

        When they run, a batch of one may have been squeezed away.
        """
        return tuple(dim - self.value(0).rank for dim in dims)

    def like(self, value: Value) -> Value:
        """Return the result of an op that keeps ``value``'s axes."""
        if value.shape != self.shape:
            raise UnsupportedCall(f"shape changes from {value.shape} to {self.shape}")
        return Value(self.shape, value.factors)


@cache
def _positions(overload: str) -> Mapping[str, int]:
    """Return the place of every argument of an overload by its name."""
    declared = overload_of(overload)._schema.arguments
    return {argument.name: place for place, argument in enumerate(declared)}


def rule(*overloads: str) -> Callable[[Rule], Rule]:
    """Register a coupling rule for exact overloads, e.g. ``"aten.add.Tensor"``.

    Raises:
        OptionError: An overload has a rule already.
    """

    def register(function: Rule) -> Rule:
        for overload in overloads:
            _add(_RULES, overload, function)
        return function

    return register


def rewrite(*overloads: str) -> Callable[[Rewrite], Rewrite]:
    """Register the function that rewrites an op's size arguments when its tensors shrink.

    Raises:
        OptionError: An overload has one already.
    """

    def register(function: Rewrite) -> Rewrite:
        for overload in overloads:
            _add(_REWRITES, overload, function)
        return function

    return register


def rule_for(overload: str) -> Rule | None:
    """Return the rule of an overload, if there is one.

    An op that writes in place couples what the op of the same name without underscore does.
    """
    return _RULES.get(overload) or _RULES.get(overload.replace("_.", "."))


def rewrite_for(overload: str) -> Rewrite | None:
    """Return the rewrite of an overload, if there is one."""
    return _REWRITES.get(overload)


def known_overloads() -> tuple[str, ...]:
    """Return all overloads with a rule, sorted."""
    return tuple(sorted(_RULES))


def _add(table: dict[str, Any], overload: str, function: Any) -> None:
    if overload in table:
        raise OptionError(
            f"two rules for {overload}", hint="an op has one rule; change the one that is there"
        )
    table[overload] = function
