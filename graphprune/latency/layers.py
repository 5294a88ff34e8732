"""The layers of a network that can be timed one by one: convolutions and products with a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import fx

from graphprune.analysis import overload_name
from graphprune.graph import DependencyGraph
from graphprune.operations import Axis, axes_of, input_axes

MAX_ENTRIES = 1 << 27
"""A layer with more weights is not timed alone: its ONNX file would be too large to make often."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """All that decides how long a layer takes; layers that are equal are timed once.

    Args:
        kind: ``convolution`` or ``product``.
        inputs: Channels (of each group of channels) or features that it reads.
        outputs: Channels or features that it makes.
        positions: Spatial size of the input; of a product, the rows of one sample.
        kernel: Spatial size of the filters; nothing for a product.
        stride: Of a convolution.
        padding: On both sides of every spatial dim.
        dilation: Of a convolution.
        groups: Into how many the channels fall that do not see each other.
    """

    kind: str
    inputs: int
    outputs: int
    positions: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def entries(self) -> int:
        """Number of weights."""
        return self.inputs * self.outputs * math.prod(self.kernel)

    @property
    def work(self) -> int:
        """Multiply-accumulates of one sample."""
        return self.entries * math.prod(self.positions) // math.prod(self.stride)

    @property
    def family(self) -> str:
        """Layers of one family like the same widths: what the runtime computes them with."""
        if self.kind == "product":
            return "product"
        if self.groups == 1:
            return "convolution"
        return "depthwise" if self.inputs == 1 else "grouped"

    def resized(self, inputs: int, outputs: int) -> LayerShape:
        """Return the layer with other widths.

        A grouped convolution that reads as much per group as before has more or fewer groups.
        """
        groups = self.groups
        if groups > 1 and inputs == self.inputs:
            per_group = self.outputs // groups
            outputs = max(outputs // per_group, 1) * per_group
            groups = outputs // per_group
        elif groups > 1:
            outputs = max(outputs // groups, 1) * groups
        return replace(self, inputs=inputs, outputs=outputs, groups=groups)


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """A layer in its network.

    Args:
        shape: What it computes.
        inputs: The axis that ``shape.inputs`` counts.
        outputs: The axis that ``shape.outputs`` counts.
        made: All axes of what it makes, for one sample together with ``per_sample``.
        repeats: How often one sample passes it, where a network folds other dims into the batch.
    """

    shape: LayerShape
    inputs: Axis
    outputs: Axis
    made: tuple[Axis, ...]
    repeats: int

    @property
    def entries_made(self) -> int:
        """Entries of what it makes of the traced batch."""
        return math.prod(axis.size for axis in self.made)


def layers_of(graph: DependencyGraph) -> Mapping[str, Layer]:
    """Return the layers that can be timed alone, by the node that computes each."""
    return dict(_layers(graph))


def _layers(graph: DependencyGraph) -> Iterator[tuple[str, Layer]]:
    for node in graph.program.module.graph.nodes:
        read = _READERS.get(overload_name(node)) if node.op == "call_function" else None
        layer = None if read is None else read(graph, node)
        if layer is not None and layer.shape.entries <= MAX_ENTRIES:
            yield node.name, layer


def _convolution(graph: DependencyGraph, node: fx.Node) -> Layer | None:
    made, weight = axes_of(graph, node), input_axes(graph, node, 1)
    x = [axis.size for axis in input_axes(graph, node, 0)]
    n_spatial = len(weight) - 2
    if len(x) != len(weight):  # without a batch
        return None
    arguments = dict(zip(("stride", "padding", "dilation", "groups"), node.args[3:], strict=False))
    kernel = tuple(axis.size for axis in weight[2:])
    dilation = _each(arguments.get("dilation", 1), n_spatial)
    shape = LayerShape(
        kind="convolution",
        inputs=weight[1].size,
        outputs=weight[0].size,
        positions=tuple(x[2:]),
        kernel=kernel,
        stride=_each(arguments.get("stride", 1), n_spatial),
        padding=_padding(arguments.get("padding", 0), kernel, dilation),
        dilation=dilation,
        groups=int(str(arguments.get("groups", 1))),
    )
    repeats = max(x[0] // graph.batch_size, 1)
    return Layer(shape, weight[1], made[1], tuple(made), repeats)


def _padding(value: object, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Return the padding of every spatial dim, where it is a word too."""
    if value == "same":  # an even filter would need one more on one side, which takes no time
        return tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    return _each(0 if value == "valid" else value, len(kernel))


def _each(value: object, n_dims: int) -> tuple[int, ...]:
    """Return one number for every spatial dim."""
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    whole = tuple(int(str(number)) for number in numbers)
    return whole if len(whole) == n_dims else whole[:1] * n_dims


def _product(left: int, right: int, *, transposed: bool) -> _Reader:
    def read(graph: DependencyGraph, node: fx.Node) -> Layer | None:
        source = graph.input_node(node.name, (right,))
        weight = axes_of(graph, source)
        if source.op != "get_attr" or len(weight) != 2:
            return None
        made = axes_of(graph, node)
        reads = input_axes(graph, node, left)[-1]
        rows = math.prod(axis.size for axis in made[:-1])
        shape = LayerShape(
            kind="product",
            inputs=weight[1 if transposed else 0].size,
            outputs=weight[0 if transposed else 1].size,
            positions=(max(rows // graph.batch_size, 1),),
        )
        return Layer(shape, reads, made[-1], tuple(made), 1)

    return read


_Reader = Callable[[DependencyGraph, fx.Node], Layer | None]

_READERS: Mapping[str, _Reader] = {
    **{f"aten.conv{n}d.{form}": _convolution for n in (1, 2, 3) for form in ("default", "padding")},
    "aten.linear.default": _product(0, 1, transposed=True),
    "aten.matmul.default": _product(0, 1, transposed=False),
    "aten.mm.default": _product(0, 1, transposed=False),
    "aten.addmm.default": _product(1, 2, transposed=False),
}
