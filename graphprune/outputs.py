"""Outputs: what a traced network returns, by name, and which of it may shrink.

An output is named by its place in what the model returns: ``logits`` in a dict or record,
``1`` in a tuple, ``other.0`` in a tuple in a dict, ``0`` if it is all that is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from graphprune.errors import OptionError

ALL = "*"
"""The pattern that every output's name matches."""


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """One tensor (or other leaf) that a network returns.

    Args:
        name: By its place in what the model returns.
        place: Its number among all of them.
        node: Name of the node that makes it; '' for a constant.
    """

    name: str
    place: int
    node: str


def outputs_of(module: fx.GraphModule) -> tuple[NetworkOutput, ...]:
    """Return what a traced network returns, in flat order."""
    (output,) = module.graph.find_nodes(op="output")
    returned = list(output.args[0])
    names = _names(module, len(returned))
    return tuple(
        NetworkOutput(name, place, made.name if isinstance(made, fx.Node) else "")
        for place, (name, made) in enumerate(zip(names, returned, strict=True))
    )


def _names(module: fx.GraphModule, count: int) -> list[str]:
    structure = module.graph._codegen.pytree_info.out_spec  # type: ignore[attr-defined]
    places = pytree.tree_unflatten(list(range(count)), structure)
    try:
        paths = [path for path, _ in pytree.tree_flatten_with_path(places)[0]]
    except ValueError:  # a record that does not say what its fields are called
        return [str(place) for place in range(count)]
    return [".".join(map(_key, path)) or str(place) for place, path in enumerate(paths)]


def _key(entry: Any) -> str:
    if isinstance(entry, pytree.SequenceKey):
        return str(entry.idx)
    return str(entry.key if isinstance(entry, pytree.MappingKey) else entry.name)


def patterns_of(unpin_outputs: bool | str | Sequence[str]) -> tuple[str, ...]:
    """Return what a caller asks for as patterns: all, none, one or several."""
    if isinstance(unpin_outputs, bool):
        return (ALL,) if unpin_outputs else ()
    return (unpin_outputs,) if isinstance(unpin_outputs, str) else tuple(unpin_outputs)


def chosen_outputs(
    outputs: Sequence[NetworkOutput], patterns: Sequence[str]
) -> tuple[NetworkOutput, ...]:
    """Return the outputs whose names or numbers match one of the patterns.

    Raises:
        OptionError: A pattern matches none.
    """
    chosen = {pattern: [o for o in outputs if _matches(o, pattern)] for pattern in patterns}
    for pattern, found in chosen.items():
        if not found:
            raise OptionError(
                f"pattern {pattern!r} matches no output of the network",
                hint=f"it returns {', '.join(output.name for output in outputs)}",
            )
    places = {output.place for found in chosen.values() for output in found}
    return tuple(output for output in outputs if output.place in places)


def _matches(output: NetworkOutput, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (output.name, str(output.place)))
