"""A model of a network's latency over widths, from times of its layers alone and of the whole.

Every convolution and every product with a weight is timed alone over a few widths, and its time is
fitted by ``a + b * in + c * out + d * in * out`` with no negative coefficient, so that a smaller
layer is never predicted to take longer. What else multiplies (attention) is charged at the layers'
rate by its multiply-accumulates. What then is missing to the measured time of the whole network
(norms, activations, additions, copies) is spread over the entries that layers make; where layers
alone take longer than the whole, they are scaled down. The model thus is right at full width; what
it says of a smaller network is a prediction, which :mod:`graphprune.latency_target` corrects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from graphprune.cost import LatencyModel, LatencyTerm
from graphprune.graph import DependencyGraph
from graphprune.groups import PruningGroup
from graphprune.latency.kernels import kernel_seconds
from graphprune.latency.layers import Layer, LayerShape, layers_of
from graphprune.latency.widths import (
    Curve,
    Curves,
    Timer,
    added,
    curves_of,
    fast_multiple,
    fast_widths,
)
from graphprune.operations import Axis, operation_axes
from graphprune.progress import Progress, silent

_SHARES = (1.0, 0.5, 0.25)
"""Widths that layers are timed at, as shares of the full one."""

Coefficients = npt.NDArray[np.float64]
"""Seconds of a layer as ``[1, in, out, in * out] @ coefficients``, (4,)."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Which widths of a layer can shrink."""

    inputs: bool
    outputs: bool


_Fits = Mapping[tuple[LayerShape, Sides], Coefficients]


def model_latency(
    graph: DependencyGraph,
    whole: float,
    *,
    threads: int,
    batch: int = 1,
    timer: Timer | None = None,
    progress: Progress = silent,
) -> LatencyModel:
    """Model how long a network takes with any coalition kept.

    Args:
        graph: The traced network.
        whole: Seconds that the whole network takes, with as many threads and samples.
        threads: Threads that one operator may use.
        batch: Samples in a run.
        timer: Times a layer; by default onnxruntime's kernel for it on the CPU.
        progress: Told about every layer.
    """

    def measured(shape: LayerShape) -> float:
        return kernel_seconds(shape, samples=batch, threads=threads)

    return _Modeller(graph, measured if timer is None else timer, progress).model(
        whole, threads, batch
    )


class _Modeller:
    """Times layers, each shape once."""

    def __init__(self, graph: DependencyGraph, timer: Timer, progress: Progress) -> None:
        self._graph = graph
        self._layers = layers_of(graph)
        self._timer = timer
        self._progress = progress

    def model(self, whole: float, threads: int, batch: int) -> LatencyModel:
        curves = self._curves()
        fits = self._fits(curves)
        by_layer = {
            name: list(_terms(layer, fits[layer.shape, _sides(layer)]))
            for name, layer in self._layers.items()
        }
        seconds = {name: sum(map(_at_full_width, terms)) for name, terms in by_layer.items()}
        work = sum(layer.shape.work * layer.repeats for layer in self._layers.values())
        terms = [term for found in by_layer.values() for term in found]
        terms += self._other_operations(sum(seconds.values()) / max(work, 1))
        return LatencyModel(
            terms=tuple(_calibrated(terms, list(self._layers.values()), whole)),
            widths={
                group.name: self._widths(group, curves, seconds) for group in self._graph.groups
            },
            threads=threads,
            batch=batch,
        )

    def _curves(self) -> Mapping[str, Curves]:
        """Time over width by family, for the layer of it that works most."""
        largest: dict[str, LayerShape] = {}
        for layer in self._layers.values():
            shape = layer.shape
            # Of grouped layers the blocks lie within groups, whose size mostly stays.
            if _sides(layer).outputs and shape.family != "grouped":
                known = largest.get(shape.family)
                if known is None or shape.work > known.work:
                    largest[shape.family] = shape
        found = {}
        for done, (family, shape) in enumerate(largest.items()):
            self._progress("widths", done, len(largest))
            found[family] = curves_of(shape, self._timer)
        return found

    def _fits(self, curves: Mapping[str, Curves]) -> _Fits:
        steps = {
            family: (_step(found.inputs), _step(found.outputs)) for family, found in curves.items()
        }
        wanted = {(layer.shape, _sides(layer)) for layer in self._layers.values()}
        found = {}
        for done, (shape, sides) in enumerate(sorted(wanted, key=repr)):
            self._progress("layers", done, len(wanted))
            inputs, outputs = steps.get(shape.family, (1, 1))
            widths = sorted(
                {
                    (_width(shape.inputs, a, inputs), _width(shape.outputs, b, outputs))
                    for a, b in _shares(sides)
                }
            )
            sizes = [shape.resized(*pair) for pair in widths]
            found[shape, sides] = _fit(
                [(size.inputs, size.outputs) for size in sizes],
                [self._timer(size) for size in sizes],
            )
        return found

    def _other_operations(self, rate: float) -> Iterator[LatencyTerm]:
        """Charge operations that are not timed at seconds per multiply-accumulate."""
        for node, axes in operation_axes(self._graph):
            if node.name not in self._layers:
                yield LatencyTerm(rate / self._graph.batch_size, tuple(axes))

    def _widths(
        self, group: PruningGroup, curves: Mapping[str, Curves], seconds: Mapping[str, float]
    ) -> tuple[int, ...]:
        """Return the numbers of units of a group that are worth having."""
        single: list[tuple[float, Curve]] = []
        step = 1
        for name, layer in self._layers.items():
            for entries, curve in _curves_met(group, layer, curves):
                if entries == 1:
                    single.append((seconds[name], curve))
                else:
                    multiple = fast_multiple(curve)
                    step = math.lcm(step, multiple // math.gcd(multiple, entries))
        widths = fast_widths(added(single), group.n_units) if single else range(group.n_units + 1)
        return tuple(w for w in widths if w == group.n_units or (w and w % step == 0))


def _curves_met(
    group: PruningGroup, layer: Layer, curves: Mapping[str, Curves]
) -> Iterator[tuple[int, Curve]]:
    """Yield time over each width of a layer that a group decides, with its entries per unit."""
    found = curves.get(layer.shape.family)
    if found is None:
        return
    for axis, curve in ((layer.inputs, found.inputs), (layer.outputs, found.outputs)):
        entries = _entries_per_unit(group, axis)
        if entries and curve is not None:
            yield entries, curve


def _step(curve: Curve | None) -> int:
    return 1 if curve is None else fast_multiple(curve)


def _sides(layer: Layer) -> Sides:
    return Sides(inputs=layer.inputs.units is not None, outputs=layer.outputs.units is not None)


def _shares(sides: Sides) -> Iterator[tuple[float, float]]:
    """Yield shares of both widths to time a layer at."""
    yield 1.0, 1.0
    for share in _SHARES[1:]:
        yield share if sides.inputs else 1.0, share if sides.outputs else 1.0
    if sides.inputs and sides.outputs:
        yield _SHARES[1], 1.0
        yield 1.0, _SHARES[1]


def _width(full: int, share: float, step: int) -> int:
    """Return a share of a width, raised to a multiple that runs fast where one is narrower."""
    if share == 1:
        return full
    wanted = max(round(full * share), 1)
    raised = -(-wanted // step) * step
    return raised if raised < full else wanted


def _fit(widths: Sequence[tuple[int, int]], seconds: Sequence[float]) -> Coefficients:
    """Fit times over widths; relative errors count alike."""
    rows = np.array([[1.0, a, b, a * b] for a, b in widths]) / np.array(seconds)[:, None]
    # Columns of one size, or the solver loses the small ones.
    scale = np.abs(rows).max(0)
    solution, _ = nnls(rows / scale, np.ones(len(seconds)))
    return np.asarray(solution / scale, np.float64)


def _terms(layer: Layer, coefficients: Coefficients) -> Iterator[LatencyTerm]:
    sides = ((), (layer.inputs,), (layer.outputs,), (layer.inputs, layer.outputs))
    for seconds, axes in zip(coefficients.tolist(), sides, strict=True):
        if seconds > 0:
            yield LatencyTerm(seconds * layer.repeats, axes)


def _at_full_width(term: LatencyTerm) -> float:
    return term.seconds * math.prod(axis.size for axis in term.axes)


def _calibrated(
    terms: Sequence[LatencyTerm], layers: Sequence[Layer], whole: float
) -> Iterator[LatencyTerm]:
    """Make terms add up to the time of the whole network at full width."""
    alone = sum(map(_at_full_width, terms))
    scale = min(whole / alone, 1.0) if alone else 1.0
    yield from (LatencyTerm(term.seconds * scale, term.axes) for term in terms)
    missing = max(whole - alone, 0.0)
    entries = sum(layer.entries_made for layer in layers)
    if not entries:
        yield LatencyTerm(missing, ())
        return
    yield from (LatencyTerm(missing / entries, layer.made) for layer in layers)


def _entries_per_unit(group: PruningGroup, axis: Axis) -> int:
    """Return how many entries of an axis go with each unit of a group; 0 if none do."""
    if axis.units is None:
        return 0
    inside = axis.units[(axis.units >= group.first) & (axis.units < group.first + group.n_units)]
    counts = np.bincount(inside - group.first) if inside.size else np.zeros(1, np.int64)
    return int(np.gcd.reduce(counts))
