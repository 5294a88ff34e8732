"""Axes that operations and parameters cost by: what multiplies with what.

A convolution does ``out * in * kernel * positions`` multiply-accumulates, a weight has ``out * in *
kernel`` entries: the product of the lengths of some axes, of which some can shrink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import fx, nn

from graphprune.analysis import overload_name
from graphprune.graph import DependencyGraph
from graphprune.groups import UnitIds
from graphprune.tracing import named_tensors


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a tensor.

    Args:
        size: Its length.
        units: Unit of every entry, -1 where an entry stays; None if all stay.
    """

    size: int
    units: UnitIds | None


def parameter_axes(graph: DependencyGraph) -> Iterator[list[Axis]]:
    """Yield the axes of every parameter that the forward reads."""
    unused = set(graph.program.unused)
    for name, tensor in named_tensors(graph.program.module).items():
        first = graph.program.aliases[name] == name
        if first and name not in unused and isinstance(tensor, nn.Parameter):
            along = graph.parameter_units.get(name, {})
            yield [Axis(size, along.get(dim)) for dim, size in enumerate(tensor.shape)]


def operation_axes(graph: DependencyGraph) -> Iterator[tuple[fx.Node, list[Axis]]]:
    """Yield nodes that multiply and accumulate, with axes whose product is how often.

    Several products of one node add up.
    """
    for node in graph.program.module.graph.nodes:
        count = _COUNTED.get(overload_name(node)) if node.op == "call_function" else None
        if count is not None:
            yield from ((node, axes) for axes in count(graph, node))


def axes_of(graph: DependencyGraph, node: fx.Node) -> list[Axis]:
    """Return the axes of a node's (first) result."""
    along = graph.axes.get((node.name, None), {})
    shape = graph.analysis.values[node.name, None].shape
    return [Axis(size, along.get(dim)) for dim, size in enumerate(shape)]


def input_axes(graph: DependencyGraph, node: fx.Node, position: int) -> list[Axis]:
    """Return the axes of the tensor at a place in a node's arguments."""
    return axes_of(graph, graph.input_node(node.name, (position,)))


def _convolution(graph: DependencyGraph, node: fx.Node) -> Iterator[list[Axis]]:
    yield [*axes_of(graph, node), *input_axes(graph, node, 1)[1:]]


def _transposed_convolution(graph: DependencyGraph, node: fx.Node) -> Iterator[list[Axis]]:
    yield [*input_axes(graph, node, 0), *input_axes(graph, node, 1)[1:]]


def _general_convolution(graph: DependencyGraph, node: fx.Node) -> Iterator[list[Axis]]:
    yield from (_transposed_convolution if node.args[6] else _convolution)(graph, node)


def _matrix_product(left: int) -> _Count:
    def count(graph: DependencyGraph, node: fx.Node) -> Iterator[list[Axis]]:
        yield [*axes_of(graph, node), input_axes(graph, node, left)[-1]]

    return count


def _attention(graph: DependencyGraph, node: fx.Node) -> Iterator[list[Axis]]:
    tokens = input_axes(graph, node, 1)[-2]
    yield [*input_axes(graph, node, 0), tokens]
    yield [*axes_of(graph, node), tokens]


def _einsum(graph: DependencyGraph, node: fx.Node) -> Iterator[list[Axis]]:
    """Letters multiply, but those of one operand that the result lacks are summed beforehand."""
    inputs, _, output = str(node.args[0]).replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != 2 or "." in inputs:
        return
    axes: dict[str, Axis] = {}
    for position, term in enumerate(terms):
        operand = axes_of(graph, graph.input_node(node.name, (1, position)))
        for letter, axis in zip(term, operand, strict=True):
            # An axis of size 1 is broadcast over the other operand's.
            if (letter in output or letter in terms[1 - position]) and axis.size > 1:
                axes[letter] = axis
    yield list(axes.values())


def _tensordot(graph: DependencyGraph, node: fx.Node) -> Iterator[list[Axis]]:
    left, right = input_axes(graph, node, 0), input_axes(graph, node, 1)
    summed = node.args[3] if len(node.args) > 2 else [-1]
    gone = {int(dim) % len(right) for dim in summed}  # type: ignore[union-attr, arg-type]
    yield [*left, *(axis for dim, axis in enumerate(right) if dim not in gone)]


def _bilinear(graph: DependencyGraph, node: fx.Node) -> Iterator[list[Axis]]:
    yield [*input_axes(graph, node, 0)[:-1], *input_axes(graph, node, 2)]


def _cell(graph: DependencyGraph, node: fx.Node) -> Iterator[list[Axis]]:
    for position in (2, 3):
        yield [*input_axes(graph, node, 0)[:-1], *input_axes(graph, node, position)]


def _recurrence(graph: DependencyGraph, node: fx.Node) -> Iterator[list[Axis]]:
    """Every step multiplies with both matrices of every layer and direction."""
    weights = [weight for weight in node.args[2] if isinstance(weight, fx.Node)]  # type: ignore[union-attr]
    for weight in weights:
        axes = axes_of(graph, weight)
        if len(axes) == 2:
            yield [*input_axes(graph, node, 0)[:-1], *axes]


_Count = Callable[[DependencyGraph, fx.Node], Iterator[list[Axis]]]

_COUNTED: dict[str, _Count] = {
    **{f"aten.conv{n}d.{form}": _convolution for n in (1, 2, 3) for form in ("default", "padding")},
    "aten.conv_transpose1d.default": _transposed_convolution,
    "aten.conv_transpose2d.input": _transposed_convolution,
    "aten.conv_transpose3d.input": _transposed_convolution,
    **{f"aten.{name}.default": _general_convolution for name in ("convolution", "_convolution")},
    **{f"aten.{name}.default": _matrix_product(0) for name in ("linear", "matmul", "mm", "bmm")},
    **{f"aten.{name}.default": _matrix_product(1) for name in ("addmm", "baddbmm")},
    "torchvision.deform_conv2d.default": _convolution,
    **{f"aten.{name}.default": _tensordot for name in ("tensordot", "inner")},
    "aten.bilinear.default": _bilinear,
    **{f"aten.{name}_cell.default": _cell for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    **{f"aten.{name}.input": _recurrence for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    "aten.scaled_dot_product_attention.default": _attention,
    "aten.einsum.default": _einsum,
}
