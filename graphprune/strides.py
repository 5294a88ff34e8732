"""Strides: ``as_strided`` calls that only restate how a tensor lies in memory go.

``run_decompositions`` adds them to keep the memory layout of the op that it takes apart. They spell
out sizes and strides that would be wrong as soon as a tensor shrinks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_AS_STRIDED = torch.ops.aten.as_strided.default


def drop_identity_strides(module: fx.GraphModule) -> None:
    """Remove the calls whose result is their input, in the graph."""
    changed = False
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is _AS_STRIDED and _is_identity(node):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
            changed = True
    if changed:
        module.recompile()


def _is_identity(node: fx.Node) -> bool:
    source, sizes, strides, *offset = node.args
    assert isinstance(source, fx.Node)
    given = source.meta["val"]
    named = [*map(_number, sizes)], [*map(_number, strides)]  # type: ignore[arg-type]
    if named[0] != [*map(_number, given.shape)] or (offset and offset[0]):
        return False
    lengths = zip(named[0], named[1], map(_number, given.stride()), strict=True)
    # Along a dim of one entry no stride is ever taken.
    return given.storage_offset() == 0 and all(a == b for n, a, b in lengths if n != 1)


def _number(size: Any) -> Any:
    """Return a size as a number or an expression that can be compared."""
    made = size.meta["val"] if isinstance(size, fx.Node) else size
    return made.node.expr if isinstance(made, torch.SymInt) else made
