"""Linear layers as matrix products: what a layer reads, unfolded into columns, times its weight.

A convolution, transposed convolution or linear layer with a weight of its own computes, at every
place of its output and for every group of channels, ``outputs = columns @ weight.T + bias``. The
columns are the entries of the input that the place sees. Least squares on layers (refits, refit
errors) needs nothing else to treat them all alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from graphprune.analysis import overload_name
from graphprune.ops.resize import argument

Places = Tensor
"""(samples, picked) int64: places of the output to look at, the same number in every sample."""


class Layout(Protocol):
    """How a layer's tensors are laid out.

    Matrices are (groups, outputs, columns), columns (groups, rows, columns) and outputs
    (groups, rows, outputs), where rows go through the samples and, within one, the places picked.
    """

    def places(self, y: Tensor) -> tuple[int, int]:
        """Return how many samples an output holds, and how many places each of them has."""

    def columns(self, x: Tensor, y: Tensor, places: Places) -> Tensor:
        """Unfold an input at some places of the output ``y``."""

    def outputs(self, y: Tensor, places: Places) -> Tensor:
        """Pick an output at some places."""

    def matrix(self, weight: Tensor) -> Tensor:
        """Lay a weight out as matrices."""

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """Undo :meth:`matrix`; ``like`` is a weight of the shape wanted."""

    def over_columns(self, channels: Tensor) -> Tensor:
        """Spread what is known of every input channel (channels,) over (groups, columns)."""


@dataclass(frozen=True)
class LinearLayer:
    """A call in a graph that multiplies what it reads by a parameter of its own.

    Args:
        node: Name of the call.
        source: Name of the node that makes its input.
        weight: Name of the parameter.
        bias: Name of the parameter that is added; None if there is none.
        added: Name of the node that makes what is added, a parameter or not; None if nothing is.
        layout: How its tensors are laid out.
    """

    node: str
    source: str
    weight: str
    bias: str | None
    added: str | None
    layout: Layout


def linear_layers(module: fx.GraphModule) -> Mapping[str, LinearLayer]:
    """Return the layers of a graph that can be refitted, by node, in execution order.

    Left out are those whose weight is computed from others (weight norm, say) or read twice.
    """
    readers: dict[str, int] = {}
    first_name: dict[int, str] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        tensor = _tensor(module, node)
        if tensor is not None:
            name = first_name.setdefault(id(tensor), str(node.target))
            readers[name] = readers.get(name, 0) + len(node.users)
    found = {}
    for node in module.graph.nodes:
        layer = _layer(module, node)
        if layer is None:
            continue
        tensor = module.get_parameter(layer.weight)
        if readers[first_name[id(tensor)]] == 1:
            found[node.name] = layer
    return found


def _tensor(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    owner, _, name = str(node.target).rpartition(".")
    found = getattr(module.get_submodule(owner), name, None)
    return found if isinstance(found, Tensor) else None


def _layer(module: fx.GraphModule, node: fx.Node) -> LinearLayer | None:
    if node.op != "call_function":
        return None
    read = _READ.get(overload_name(node))
    if read is None:
        return None
    source, weight = argument(node, read.source), argument(node, read.weight)
    if not isinstance(source, fx.Node) or not _is_parameter(module, weight):
        return None
    tensor = module.get_parameter(str(weight.target))
    if not tensor.is_floating_point() or tensor.dim() < 2:
        return None
    layout = read.layout(node, tensor)
    if layout is None:
        return None
    added: fx.Node | None = None if read.bias is None else argument(node, read.bias)
    return LinearLayer(
        node=node.name,
        source=source.name,
        weight=str(weight.target),
        bias=None if added is None or not _is_parameter(module, added) else str(added.target),
        added=None if added is None else added.name,
        layout=layout,
    )


def _is_parameter(module: fx.GraphModule, node: object) -> bool:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return False
    return isinstance(_tensor(module, node), torch.nn.Parameter)


def every_place(layer: LinearLayer, y: Tensor) -> Places:
    """Return all places of an output."""
    samples, places = layer.layout.places(y)
    return torch.arange(places, device=y.device).expand(samples, -1)


def random_places(layer: LinearLayer, y: Tensor, rows: int, generator: torch.Generator) -> Places:
    """Draw about ``rows`` places of an output, without repetition in a sample, at least one each.

    Args:
        layer: The layer.
        y: Its output.
        rows: How many, over all samples.
        generator: Draws them.
    """
    samples, places = layer.layout.places(y)
    picked = max(math.ceil(rows / max(samples, 1)), 1)
    if picked >= places:
        return every_place(layer, y)
    drawn = torch.rand(samples, places, generator=generator).topk(picked, 1).indices
    return drawn.sort(1).values.to(y.device)


# ---- convolutions -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Convolution:
    """A convolution; inputs are (samples, channels, positions...), or lack the samples."""

    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def places(self, y: Tensor) -> tuple[int, int]:
        batched = self._batched(y)
        return batched.shape[0], math.prod(batched.shape[2:])

    def outputs(self, y: Tensor, places: Places) -> Tensor:
        flat = self._batched(y).flatten(2)
        index = places[:, None, :].expand(-1, flat.shape[1], -1)
        return self._rows(flat.gather(2, index).transpose(1, 2))

    def columns(self, x: Tensor, y: Tensor, places: Places) -> Tensor:
        padded = self._padded(self._batched(x))
        steps = _strides(padded.shape[2:])
        at = _coordinates(places, self._batched(y).shape[2:])
        first = sum((c * s * t for c, s, t in zip(at, self.stride, steps, strict=True)), 0 * places)
        taps = [
            sum(k * d * t for k, d, t in zip(tap, self.dilation, steps, strict=True))
            for tap in product(*map(range, self.kernel))
        ]
        index = (first[:, :, None] + torch.tensor(taps, device=x.device)).flatten(1)
        flat = padded.flatten(2)
        seen = flat.gather(2, index[:, None, :].expand(-1, flat.shape[1], -1))
        # (samples, channels, places, taps) -> (samples, places, channels * taps)
        by_place = seen.unflatten(2, (places.shape[1], len(taps))).transpose(1, 2)
        return self._rows(by_place.flatten(2))

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        return matrix.reshape(like.shape)

    def over_columns(self, channels: Tensor) -> Tensor:
        taps = math.prod(self.kernel)
        return channels.repeat_interleave(taps).reshape(self.groups, -1)

    def _padded(self, x: Tensor) -> Tensor:
        sides = [side for pair in zip(self.before, self.after, strict=True) for side in pair[::-1]]
        return F.pad(x, sides[::-1])

    def _batched(self, x: Tensor) -> Tensor:
        return x if x.dim() == len(self.kernel) + 2 else x[None]

    def _rows(self, by_place: Tensor) -> Tensor:
        """(samples, places, groups * width) -> (groups, rows, width)."""
        rows: Tensor = by_place.flatten(0, 1).unflatten(1, (self.groups, -1))
        return rows.transpose(0, 1)


@dataclass(frozen=True)
class _TransposedConvolution(_Convolution):
    """A transposed convolution: a convolution of the input with zeros put between its entries.

    The fields are those of that convolution, whose stride is one; ``gaps`` is the transposed one's
    stride.
    """

    gaps: tuple[int, ...] = ()

    def matrix(self, weight: Tensor) -> Tensor:
        by_group = weight.reshape(self.groups, -1, *weight.shape[1:])
        flipped: Tensor = by_group.flip([*range(3, by_group.dim())])
        return flipped.transpose(1, 2).flatten(2)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        shape = (self.groups, like.shape[1], like.shape[0] // self.groups, *like.shape[2:])
        by_group = matrix.reshape(shape).transpose(1, 2)
        weight: Tensor = by_group.flip([*range(3, by_group.dim())]).reshape(like.shape)
        return weight

    def _padded(self, x: Tensor) -> Tensor:
        spread = [(n - 1) * gap + 1 for n, gap in zip(x.shape[2:], self.gaps, strict=True)]
        spaced = x.new_zeros(*x.shape[:2], *spread)
        everywhere = (slice(None), slice(None))
        spaced[(*everywhere, *(slice(None, None, gap) for gap in self.gaps))] = x
        return super()._padded(spaced)


def _strides(sizes: Sequence[int]) -> list[int]:
    return [math.prod(sizes[k + 1 :]) for k in range(len(sizes))]


def _coordinates(places: Places, sizes: Sequence[int]) -> Iterator[Tensor]:
    for size, step in zip(sizes, _strides(sizes), strict=True):
        yield places // step % size


def _spatial(node: fx.Node, position: int, rank: int, default: int) -> tuple[int, ...] | None:
    given = argument(node, position, default)
    values = [given] if isinstance(given, int) else list(given)
    if not all(isinstance(value, int) for value in values):
        return None
    return tuple(values * rank if len(values) == 1 else values)


def _convolution(node: fx.Node, weight: Tensor, groups_at: int = 6) -> Layout | None:
    kernel = tuple(weight.shape[2:])
    rank, groups = len(kernel), argument(node, groups_at, 1)
    stride, dilation = _spatial(node, 3, rank, 1), _spatial(node, 5, rank, 1)
    before, after = _padding(node, kernel, dilation or ())
    if stride is None or dilation is None or before is None or not isinstance(groups, int):
        return None
    return _Convolution(groups, kernel, stride, dilation, before, after)


def _padding(
    node: fx.Node, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Return what is padded before and after every dim."""
    given = argument(node, 4, 0)
    if not isinstance(given, str):
        padding = _spatial(node, 4, len(kernel), 0)
        return padding, padding or ()
    if given == "valid":
        return (0,) * len(kernel), (0,) * len(kernel)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    # "same" puts the odd one after.
    return tuple(r // 2 for r in reach), tuple(r - r // 2 for r in reach)


def _transposed(node: fx.Node, weight: Tensor) -> Layout | None:
    # Where its schema has stride, padding, dilation and output padding; they differ below.
    return _transposed_of(node, weight, (3, 4, 7, 5), 6)


def _general(node: fx.Node, weight: Tensor) -> Layout | None:
    if argument(node, 6, False):
        return _transposed_of(node, weight, (3, 4, 5, 7), 8)
    return _convolution(node, weight, groups_at=8)


def _transposed_of(
    node: fx.Node, weight: Tensor, at: tuple[int, int, int, int], groups_at: int
) -> Layout | None:
    kernel, groups = tuple(weight.shape[2:]), argument(node, groups_at, 1)
    defaults = (1, 0, 1, 0)
    read = [_spatial(node, p, len(kernel), d) for p, d in zip(at, defaults, strict=True)]
    if any(value is None for value in read) or not isinstance(groups, int):
        return None
    stride, padding, dilation, more = (value or () for value in read)
    sides = [(d * (k - 1) - p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    return _TransposedConvolution(
        groups=groups,
        kernel=kernel,
        stride=(1,) * len(kernel),
        dilation=dilation,
        before=tuple(sides),
        after=tuple(side + extra for side, extra in zip(sides, more, strict=True)),
        gaps=stride,
    )


# ---- matrix products ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Matrix:
    """A product of the last dim with a weight (outputs, inputs), or (inputs, outputs) if turned."""

    turned: bool

    def places(self, y: Tensor) -> tuple[int, int]:
        return 1, math.prod(y.shape[:-1])

    def outputs(self, y: Tensor, places: Places) -> Tensor:
        return y.reshape(-1, y.shape[-1])[places[0]][None]

    def columns(self, x: Tensor, y: Tensor, places: Places) -> Tensor:
        del y
        return x.reshape(-1, x.shape[-1])[places[0]][None]

    def matrix(self, weight: Tensor) -> Tensor:
        return (weight.mT if self.turned else weight)[None]

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        del like
        return matrix[0].mT if self.turned else matrix[0]

    def over_columns(self, channels: Tensor) -> Tensor:
        return channels[None]


def _linear(node: fx.Node, weight: Tensor) -> Layout | None:
    del node
    return _Matrix(turned=False) if weight.dim() == 2 else None


def _product(node: fx.Node, weight: Tensor) -> Layout | None:
    plain = argument(node, 3, 1) == 1 and argument(node, 4, 1) == 1
    return _Matrix(turned=True) if weight.dim() == 2 and plain else None


# ---- which ops ----------------------------------------------------------------------------------


class _MakeLayout(Protocol):
    def __call__(self, node: fx.Node, weight: Tensor) -> Layout | None: ...


@dataclass(frozen=True)
class _Read:
    """Where an op's arguments stand."""

    layout: _MakeLayout
    source: int = 0
    weight: int = 1
    bias: int | None = 2


_READ: dict[str, _Read] = {
    **{
        f"aten.conv{n}d.{form}": _Read(_convolution)
        for n in (1, 2, 3)
        for form in ("default", "padding")
    },
    "aten.conv_transpose1d.default": _Read(_transposed),
    "aten.conv_transpose2d.input": _Read(_transposed),
    "aten.conv_transpose3d.input": _Read(_transposed),
    "aten.convolution.default": _Read(_general),
    "aten._convolution.default": _Read(_general),
    "aten.linear.default": _Read(_linear),
    "aten.matmul.default": _Read(_product, bias=None),
    "aten.mm.default": _Read(_product, bias=None),
    "aten.addmm.default": _Read(_product, source=1, weight=2, bias=0),
}
