"""Least squares: layers refitted one after the other, so that they go on giving what they gave.

The networks are walked side by side in execution order. Every convolution and linear layer whose
input has changed is refitted by ridge regression on sampled places of the calibration images: from
what it receives in the pruned and so far repaired network to what makes the network go on as the
unpruned one does (:mod:`graphprune.repairs.targets`), starting from its present weights. Where a
rectifier follows, only what it lets through counts (:mod:`graphprune.repairs.windows`). An
intercept goes into its bias, or into the mean of the batch norm that follows. The ridge is the one
that leaves the least error on held-out images; where none helps, the layer stays as it was. The
last layer is then fitted to the predictions (:mod:`graphprune.repairs.predictions`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, fx

from graphprune.analysis import overload_name
from graphprune.coalition import kept_value
from graphprune.columns import LinearLayer, linear_layers, random_places
from graphprune.fidelity import rises
from graphprune.game.evaluation import filled_up, passes_of
from graphprune.game.value import class_logits
from graphprune.graph import DependencyGraph
from graphprune.ops.resize import argument
from graphprune.repairs.lockstep import Shelf, Walk, shelf
from graphprune.repairs.origin import changed_nodes, unpruned_like
from graphprune.repairs.predictions import LastLayer, Predicted, readout_of
from graphprune.repairs.registry import LayerGain, Outcome, RepairJob, register
from graphprune.repairs.ridge import Change, LeastSquares
from graphprune.repairs.samples import Sample, error
from graphprune.repairs.targets import ShapeOf, Target, corrected, squared_scales, target_of
from graphprune.repairs.windows import Window, limits, window_of

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Ridges that are tried, as shares of the mean square of a column."""

UNCHECKED_STRENGTH = 1e-2
"""The ridge where there are no held-out images to choose one by."""

ROWS_PER_COLUMN = 15
FEWEST_ROWS = 20_000
MOST_ROWS = 80_000

ROUNDS = 5
"""Most fits towards targets that give way, after the first."""

HELD = 64 * 2**20
"""Bytes of a change that is held while it is compared with others."""

WIDEST = 8192
"""Layers of more columns are given fewer rows than that, so that the dual problem is small."""


@register("least-squares", guarded=True, settled=True)
def least_squares(job: RepairJob) -> Outcome:
    """Refit the weights and biases of all layers that receive something else than before."""
    return _outcome(_Refit(job, weights=True).run(), job)


@register("bias", guarded=True, settled=True)
def bias(job: RepairJob) -> Outcome:
    """Refit biases only: what is missing on average is added."""
    return _outcome(_Refit(job, weights=False).run(), job)


def _outcome(gains: Sequence[LayerGain], job: RepairJob) -> Outcome:
    refitted = [gain for gain in gains if gain.ridge is not None]
    note = f"{len(refitted)} of {len(gains)} layers refitted on {job.data.n_images} images"
    if not gains:
        note = "no layer receives anything else than before; nothing was repaired"
    nearer = [gain.divergence for gain in gains if gain.divergence is not None]
    notes = [
        f"the last layer was fitted to the predictions: held out, they were {before:.4g} nats off, "
        f"and are {after:.4g}"
        for before, after in nearer
    ]
    return Outcome(notes=(note, *notes), layers=tuple(gains))


class _Refit:
    """Both networks, layer by layer.

    Args:
        job: The pruned network and the images.
        weights: Whether weights are refitted, or biases only.
    """

    def __init__(self, job: RepairJob, *, weights: bool) -> None:
        self._job = job
        self._weights = weights
        self._origin = job.source
        self._nodes: dict[str, fx.Node] = {node.name: node for node in job.model.graph.nodes}
        self._generator = torch.Generator().manual_seed(job.seed)
        self._decided = {gain.layer: gain for gain in job.decided}
        batches = [_batches(job, held_out=False), _batches(job, held_out=True)]
        self._batches = [*batches[0], *batches[1]]
        self._fitted = range(len(batches[0]))
        # Where there are none, errors are those of the fit.
        self._checked = range(len(batches[0]), len(self._batches))

    def run(self) -> list[LayerGain]:
        """Walk through the networks and refit; return what became of every layer looked at."""
        model, graph, gains = self._job.model, self._origin.graph, []
        changed = changed_nodes(model, self._origin)
        layers = [each for each in linear_layers(model).values() if each.source in changed]
        shape_of = _shapes_in(graph)
        targets = [target_of(self._nodes[layer.node], shape_of) for layer in layers]
        asked = Counter(target.layer.name for target in targets)
        asked.update(target.end.name for target in targets)
        readouts = [readout_of(self._nodes[layer.node], graph, shape_of) for layer in layers]
        asked.update(readout.end.name for readout in readouts if readout is not None)
        with shelf(self._job.max_memory) as kept:
            unpruned = Walk(unpruned_like(model, graph), self._batches, asked, kept)
            pruned = Walk(model, self._batches, {}, kept)
            walks = unpruned, pruned
            for done, (layer, target) in enumerate(zip(layers, targets, strict=True), 1):
                pruned.until(layer.node)
                unpruned.through(layer.node)
                unpruned.through(target.end.name)
                window = window_of(self._nodes[layer.node], shape_of)
                gain = self._refit(_Rows(self, layer, target, window, walks), kept)
                readout = readouts[done - 1]
                if readout is not None:
                    own = layer.added is not None and self._sink(layer) is not None
                    last = LastLayer(layer, readout, model, shift=own)
                    gain = self._fit_predictions(gain, last, walks)
                gains.append(gain)
                unpruned.take(layer.node)
                unpruned.take(target.end.name)
                self._job.progress("layers refitted", done, len(layers))
        return gains

    def _refit(self, rows: _Rows, kept: Shelf) -> LayerGain:
        """Refit one layer, if that lowers its error."""
        layer = rows.layer
        decided = self._decided.get(layer.weight)
        if decided is not None and decided.ridge is None:
            return decided
        sink = self._sink(layer)
        problem = LeastSquares(intercept=sink is not None)
        fitted: list[Sample] = []
        for batch in self._fitted:
            sample = rows.sample(batch)
            problem.add(sample.columns, sample.residuals)
            # Looked at again by fits that follow the first, and by those who check without others.
            if sample.limits is not None or (decided is None and not self._checked):
                fitted.append(sample.placed(kept))
        fit = _Fit(problem, fitted, weights=self._weights)
        if decided is None:
            checked = [rows.sample(batch) for batch in self._checked] or fitted
            gain, change = fit.best(layer.weight, checked, self._strengths(sink))
        else:
            gain, change = decided, fit.again(decided)
        if change is not None:
            self._apply(layer, change, sink)
        for sample in fitted:
            sample.discard(kept)
        return gain

    def _sink(self, layer: LinearLayer) -> _Sink | None:
        return _sink_of(self._job.model, self._nodes[layer.node], layer)

    def _fit_predictions(
        self, gain: LayerGain, last: LastLayer, walks: tuple[Walk, Walk]
    ) -> LayerGain:
        """Fit the last layer to the predictions, too, unless that takes them away."""
        unpruned, pruned = walks
        end = last.readout.end.name
        unpruned.through(end)

        def batches(numbers: Sequence[int]) -> list[Predicted]:
            logits = (self.kept(end, unpruned.value(end, number)) for number in numbers)
            return [
                Predicted(pruned.lookup(number), class_logits([each]))
                for number, each in zip(numbers, logits, strict=True)
            ]

        fitted, checked = batches(self._fitted), batches(self._checked)
        unpruned.take(end)
        decided = self._decided.get(gain.layer)
        wanted = bool(checked) if decided is None else decided.divergence is not None
        if not wanted:
            return gain
        change = last.fitted(fitted, weights=self._weights, max_memory=self._job.max_memory)
        if change is None:
            return gain
        if decided is None:
            before, after = last.divergences(checked), last.divergences(checked, change)
            if rises(after - before):
                return gain
            gain = replace(gain, divergence=(float(before.mean()), float(after.mean())))
        last.add(change)
        return gain

    def _strengths(self, sink: _Sink | None) -> Sequence[float]:
        if not self._weights:
            return (0.0,) if sink is not None else ()
        return STRENGTHS if self._job.held_out is not None else (UNCHECKED_STRENGTH,)

    def _apply(self, layer: LinearLayer, change: Change, sink: _Sink | None) -> None:
        weight = self._job.model.get_parameter(layer.weight)
        if self._weights:
            # In place and in float64, row by row: torch widens what is added, which may be large.
            rows = layer.layout.matrix(weight).flatten(0, 1)
            for own, row in zip(change.weight.flatten(0, 1), rows, strict=True):
                own.add_(row)
            weight.copy_(layer.layout.weight(change.weight, weight))
        if sink is not None:
            sink.tensor.add_(sink.sign * change.bias.flatten().to(sink.tensor.dtype))

    # ---- what rows ask ------------------------------------------------------------------------

    @property
    def job(self) -> RepairJob:
        """The pruned network and the images."""
        return self._job

    @property
    def generator(self) -> torch.Generator:
        """Draws the places."""
        return self._generator

    def node(self, name: str) -> fx.Node:
        """Return a node of the pruned network."""
        return self._nodes[name]

    def kept(self, name: str, value: Tensor) -> Tensor:
        """Return of what a node of the unpruned network gave that which the pruned one has."""
        return kept_value(self._origin.graph, name, self._origin.kept, value)


@dataclass(frozen=True)
class _Fit:
    """What can be fitted to the rows of one layer.

    Args:
        problem: The rows.
        parts: The rows again, as they were added, if they are looked at more than once.
        weights: Whether weights are fitted, or biases only.
    """

    problem: LeastSquares
    parts: Sequence[Sample]
    weights: bool

    def best(
        self, layer: str, checked: Sequence[Sample], strengths: Sequence[float]
    ) -> tuple[LayerGain, Change | None]:
        """Return the change that leaves the least error on rows that are not fitted.

        Args:
            layer: Name of the layer's weight.
            checked: Those rows.
            strengths: Ridges to try.

        Returns:
            What it is worth, and the change; None where none lowers the error.
        """
        before = error(checked, None)
        best = LayerGain(layer=layer, before=before, after=before, ridge=None)
        for strength, change in self._candidates(strengths):
            after = error(checked, change)
            del change  # of wide layers not two are held at once, here and below
            if after < best.after:
                best = replace(best, after=after, ridge=strength)
        if best.ridge is None:
            return best, None
        fits = self._fits(best.ridge)
        chosen = _if_small(next(fits))
        for change in islice(fits, ROUNDS if self._windowed else 0):
            after, small = error(checked, change), _if_small(change)
            del change
            if not after < best.after:
                break
            best, chosen = replace(best, after=after, rounds=best.rounds + 1), small
        fits.close()
        return best, self.again(best) if chosen is None else chosen

    def _candidates(self, strengths: Sequence[float]) -> Iterator[tuple[float, Change]]:
        """Solve for one strength after the other: solutions of wide layers are large."""
        solutions = self.problem.solutions(strengths) if self.weights else None
        for strength in strengths:  # zip would hold a solution until the next one is there
            yield strength, self.problem.shift() if solutions is None else next(solutions)

    def again(self, decided: LayerGain) -> Change:
        """Return the change of the ridge and the rounds that have been chosen before."""
        assert decided.ridge is not None
        fits = self._fits(decided.ridge)
        for _ in range(decided.rounds):
            next(fits)
        return next(fits)

    @property
    def _windowed(self) -> bool:
        """Whether not all of the layer's output is seen."""
        return bool(self.parts) and self.parts[0].limits is not None

    def _fits(self, strength: float) -> Generator[Change]:
        """Fit, and then again and again towards what gives way where nothing is seen."""
        problem = self.problem
        while True:
            change = self._solved(problem, strength)
            yield change
            problem = self.problem.aimed(self._aims(change))
            del change

    def _aims(self, change: Change) -> Iterator[tuple[Tensor, Tensor]]:
        return ((part.columns, part.aim(change)) for part in self.parts)

    def _solved(self, problem: LeastSquares, strength: float) -> Change:
        return next(problem.solutions((strength,))) if self.weights else problem.shift()


def _if_small(change: Change) -> Change | None:
    """Return a change unless it is better made anew than held while others are made."""
    return change if change.weight.nbytes <= HELD else None


class _Rows:
    """Samples what a layer receives, and what it should give."""

    def __init__(
        self,
        refit: _Refit,
        layer: LinearLayer,
        target: Target,
        window: Window | None,
        walks: tuple[Walk, Walk],
    ) -> None:
        self.layer = layer
        self._refit = refit
        self._target = target
        self._window = window
        self._unpruned, self._pruned = walks
        self._matrix = layer.layout.matrix(refit.job.model.get_parameter(layer.weight))
        self._importance: Tensor | None = None

    def sample(self, batch: int) -> Sample:
        """Draw rows of one batch."""
        layer, target, layout = self.layer, self._target, self.layer.layout
        lookup = self._pruned.lookup(batch)
        wanted = self._refit.kept(layer.node, self._unpruned.value(layer.node, batch))
        if target.corrects:
            end = self._unpruned.value(target.end.name, batch)
            wanted = corrected(target, wanted, self._refit.kept(target.end.name, end), lookup)
        places = random_places(layer, wanted, self._n_rows(batch), self._refit.generator)
        columns = layout.columns(self._pruned.value(layer.source, batch), wanted, places)
        present = columns @ self._matrix.mT
        if layer.added is not None:
            added: Tensor = lookup(self._refit.node(layer.added))
            present = present + added.reshape(len(present), 1, -1)
        outputs = layout.outputs(wanted, places)
        if self._importance is None:
            scales = layout.outputs(squared_scales(target, wanted, lookup), places)
            self._importance = scales.float().mean(1)
        # Sums of half precision would lose what is looked for.
        dtype = columns.dtype if columns.dtype.itemsize >= 4 else torch.float32
        seen = None
        if self._window is not None:
            low, high = limits(self._window, wanted, lookup)
            seen = layout.outputs(low, places).to(dtype), layout.outputs(high, places).to(dtype)
        residuals = (outputs - present).to(dtype)
        return Sample(columns.to(dtype), outputs.to(dtype), residuals, self._importance, seen)

    def _n_rows(self, batch: int) -> int:
        """How many rows a batch gives, in proportion to its images."""
        n_columns, images = self._matrix.shape[-1], self._refit.job.data.n_images
        total = min(max(ROWS_PER_COLUMN * n_columns, FEWEST_ROWS), MOST_ROWS)
        if n_columns > WIDEST:
            total = WIDEST // 2
        return -(-total * self._unpruned.size(batch) // images)


# ---- intercepts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sink:
    """Where an intercept goes: it is added to a tensor, or subtracted from it."""

    tensor: Tensor
    sign: float


def _sink_of(model: fx.GraphModule, node: fx.Node, layer: LinearLayer) -> _Sink | None:
    """Return where a layer's intercept can go; None if nowhere."""
    if layer.added is not None:
        own = layer.bias is not None and _read_once(node, layer.added)
        return _Sink(model.get_parameter(str(layer.bias)), 1.0) if own else None
    users = list(node.users)
    if len(users) != 1 or overload_name(users[0]) != _BATCH_NORM or users[0].args[0] is not node:
        return None
    mean = argument(users[0], _MEAN)
    if not isinstance(mean, fx.Node) or mean.op != "get_attr" or len(mean.users) != 1:
        return None
    return _Sink(model.get_buffer(str(mean.target)), -1.0)


def _read_once(node: fx.Node, source: str) -> bool:
    return all(len(read.users) == 1 for read in node.all_input_nodes if read.name == source)


_BATCH_NORM = "aten.batch_norm.default"
_MEAN = 3
"""Place of the running mean among its arguments."""


# ---- images -------------------------------------------------------------------------------------


def _batches(job: RepairJob, *, held_out: bool) -> list[tuple[Tensor, ...]]:
    data = job.held_out if held_out else job.data
    if data is None:
        return []
    graph = job.source.graph
    return [
        tuple(filled_up(graph, x) for x in batch.inputs)
        for batch in data.rebatched(passes_of(graph))
    ]


def _shapes_in(graph: DependencyGraph) -> ShapeOf:
    def shape_of(node: fx.Node) -> tuple[int, ...] | None:
        value = graph.analysis.values.get((node.name, None))
        return None if value is None else value.shape

    return shape_of
