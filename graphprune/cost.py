"""Costs: units, parameters and multiply-accumulates of a network with any coalition kept.

Every cost is a sum of products of axis lengths: a weight has ``out * in * kernel`` entries, a
convolution does ``out * in * kernel * positions`` multiply-accumulates. A unit shortens every axis
it lives on, so what goes with it is counted too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from torch import fx, nn

from graphprune.analysis import overload_name
from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import UnitIds
from graphprune.tracing import named_tensors

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network costs.

    Args:
        units: Prunable units that are kept.
        params: Entries of all parameters that the forward reads (buffers do not count).
        macs: Multiply-accumulates of convolutions, matrix products, recurrent layers and attention,
            for one sample; biases, norms and activations do not count.
    """

    units: int
    params: int
    macs: int

    def of(self, kind: str) -> int:
        """Return one cost by name: ``units``, ``params`` or ``macs``."""
        return {"units": self.units, "params": self.params, "macs": self.macs}[kind]


@dataclass(frozen=True, slots=True)
class _Axis:
    size: int
    units: UnitIds | None


@dataclass(frozen=True)
class _Product:
    """A constant times the lengths of some axes (rows of the length table)."""

    constant: float
    axes: tuple[int, ...]


class CostModel:
    """Costs of one network.

    Args:
        graph: The traced network.
    """

    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph
        self._rows: dict[bytes, int] = {}
        self._units: list[UnitIds] = []
        self._params = [self._product(axes) for axes in _parameter_axes(graph)]
        self._macs = [
            self._product(axes, 1.0 / graph.batch_size) for axes in _operation_axes(graph)
        ]

    def total(self, kept: Kept) -> Cost:
        """Return the costs of the network with ``kept`` (n_units,) Bool."""
        lengths = self._lengths(np.asarray(kept, bool))
        return Cost(
            units=int(np.count_nonzero(kept)),
            params=round(_sum(self._params, lengths)),
            macs=round(_sum(self._macs, lengths)),
        )

    def marginal(self, kind: str) -> Floats:
        """Return, for every unit, the cost that goes if it alone is removed: (n_units,)."""
        if kind == "units":
            return np.ones(self._graph.n_units)
        saved = np.zeros(self._graph.n_units)
        lengths = self._lengths(self._graph.all_kept())
        for product in self._params if kind == "params" else self._macs:
            self._add_savings(saved, product, lengths)
        return saved

    def _add_savings(self, saved: Floats, product: _Product, lengths: Floats) -> None:
        if not product.axes:
            return
        touched = np.unique(np.concatenate([self._units[row] for row in product.axes]))
        touched = touched[touched >= 0]
        after = np.full(touched.size, product.constant)
        for row in product.axes:
            after *= lengths[row] - self._counts_of(row, touched)
        before = product.constant * math.prod(lengths[row] for row in product.axes)
        saved[touched] += before - after

    def _counts_of(self, row: int, units: UnitIds) -> Floats:
        present, counts = np.unique(self._units[row], return_counts=True)
        place = np.searchsorted(present, units).clip(max=present.size - 1)
        return np.where(present[place] == units, counts[place], 0).astype(np.float64)

    # ---- axis lengths ------------------------------------------------------------------------

    def _product(self, axes: Sequence[_Axis], constant: float = 1.0) -> _Product:
        rows = []
        for axis in axes:
            if axis.units is None:
                constant *= axis.size
            else:
                rows.append(self._row(axis.units))
        return _Product(constant, tuple(rows))

    def _row(self, units: UnitIds) -> int:
        key = units.tobytes()
        if key not in self._rows:
            self._rows[key] = len(self._units)
            self._units.append(units)
        return self._rows[key]

    def _lengths(self, kept: Kept) -> Floats:
        lengths: Floats = self._fixed + self._table @ kept.astype(np.float64)
        return lengths

    @cached_property
    def _fixed(self) -> Floats:
        return np.array([np.count_nonzero(units < 0) for units in self._units], np.float64)

    @cached_property
    def _table(self) -> csr_matrix:
        """Entries that a unit has on an axis: (axes, units)."""
        rows = [np.full(np.count_nonzero(u >= 0), k) for k, u in enumerate(self._units)]
        columns = [units[units >= 0] for units in self._units]
        shape = (len(self._units), self._graph.n_units)
        if not rows:
            return csr_matrix(shape)
        flat = np.concatenate(rows), np.concatenate(columns)
        return csr_matrix((np.ones(flat[0].size), flat), shape=shape)


def _sum(products: list[_Product], lengths: Floats) -> float:
    return float(sum(p.constant * math.prod(lengths[row] for row in p.axes) for p in products))


# ---- what costs what ----------------------------------------------------------------------------


def _parameter_axes(graph: DependencyGraph) -> Iterator[list[_Axis]]:
    unused = set(graph.program.unused)
    for name, tensor in named_tensors(graph.program.module).items():
        first = graph.program.aliases[name] == name
        if first and name not in unused and isinstance(tensor, nn.Parameter):
            along = graph.parameter_units.get(name, {})
            yield [_Axis(size, along.get(dim)) for dim, size in enumerate(tensor.shape)]


def _operation_axes(graph: DependencyGraph) -> Iterator[list[_Axis]]:
    for node in graph.program.module.graph.nodes:
        count = _COUNTED.get(overload_name(node)) if node.op == "call_function" else None
        if count is not None:
            yield from count(graph, node)


def _axes_of(graph: DependencyGraph, node: fx.Node) -> list[_Axis]:
    along = graph.axes.get((node.name, None), {})
    shape = graph.analysis.values[node.name, None].shape
    return [_Axis(size, along.get(dim)) for dim, size in enumerate(shape)]


def _input_axes(graph: DependencyGraph, node: fx.Node, position: int) -> list[_Axis]:
    return _axes_of(graph, graph.input_node(node.name, (position,)))


def _convolution(graph: DependencyGraph, node: fx.Node) -> Iterator[list[_Axis]]:
    yield [*_axes_of(graph, node), *_input_axes(graph, node, 1)[1:]]


def _transposed_convolution(graph: DependencyGraph, node: fx.Node) -> Iterator[list[_Axis]]:
    yield [*_input_axes(graph, node, 0), *_input_axes(graph, node, 1)[1:]]


def _general_convolution(graph: DependencyGraph, node: fx.Node) -> Iterator[list[_Axis]]:
    yield from (_transposed_convolution if node.args[6] else _convolution)(graph, node)


def _matrix_product(left: int) -> _Count:
    def count(graph: DependencyGraph, node: fx.Node) -> Iterator[list[_Axis]]:
        yield [*_axes_of(graph, node), _input_axes(graph, node, left)[-1]]

    return count


def _attention(graph: DependencyGraph, node: fx.Node) -> Iterator[list[_Axis]]:
    tokens = _input_axes(graph, node, 1)[-2]
    yield [*_input_axes(graph, node, 0), tokens]
    yield [*_axes_of(graph, node), tokens]


def _einsum(graph: DependencyGraph, node: fx.Node) -> Iterator[list[_Axis]]:
    """Letters multiply, but those of one operand that the result lacks are summed beforehand."""
    inputs, _, output = str(node.args[0]).replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != 2 or "." in inputs:
        return
    axes: dict[str, _Axis] = {}
    for position, term in enumerate(terms):
        operand = _axes_of(graph, graph.input_node(node.name, (1, position)))
        for letter, axis in zip(term, operand, strict=True):
            # An axis of size 1 is broadcast over the other operand's.
            if (letter in output or letter in terms[1 - position]) and axis.size > 1:
                axes[letter] = axis
    yield list(axes.values())


def _tensordot(graph: DependencyGraph, node: fx.Node) -> Iterator[list[_Axis]]:
    left, right = _input_axes(graph, node, 0), _input_axes(graph, node, 1)
    summed = node.args[3] if len(node.args) > 2 else [-1]
    gone = {int(dim) % len(right) for dim in summed}  # type: ignore[union-attr, arg-type]
    yield [*left, *(axis for dim, axis in enumerate(right) if dim not in gone)]


def _bilinear(graph: DependencyGraph, node: fx.Node) -> Iterator[list[_Axis]]:
    yield [*_input_axes(graph, node, 0)[:-1], *_input_axes(graph, node, 2)]


def _cell(graph: DependencyGraph, node: fx.Node) -> Iterator[list[_Axis]]:
    for position in (2, 3):
        yield [*_input_axes(graph, node, 0)[:-1], *_input_axes(graph, node, position)]


def _recurrence(graph: DependencyGraph, node: fx.Node) -> Iterator[list[_Axis]]:
    """Every step multiplies with both matrices of every layer and direction."""
    weights = [weight for weight in node.args[2] if isinstance(weight, fx.Node)]  # type: ignore[union-attr]
    for weight in weights:
        axes = _axes_of(graph, weight)
        if len(axes) == 2:
            yield [*_input_axes(graph, node, 0)[:-1], *axes]


_Count = Callable[[DependencyGraph, fx.Node], Iterator[list[_Axis]]]

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
