"""The repaired game: what a coalition is worth once the layers that read it are refitted.

At a coalition every reader computes with the least-squares refit of its weight to the columns that
are present (:mod:`graphprune.game.refits`). If a present unit goes next and its readers are
refitted again, what these make changes by minus dY_i, which is closed form; so one backward pass
gives the first-order marginal of every present unit,

    v(S) - v(S - i)  ~  sum over its readers of <dv/dY, dY_i>.

Units that something else consumes as well (a product of activations, a statistic) add the
derivative in their gate there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from graphprune.batching import BatchPlace
from graphprune.columns import every_place
from graphprune.data import CalibrationBatches
from graphprune.errors import OptionError
from graphprune.game.evaluation import (
    DEFAULT,
    Evaluator,
    GateGradients,
    Running,
    filled_up,
    outside_inference,
)
from graphprune.game.formats import channels_last
from graphprune.game.moments import Moments, gather_moments, with_one
from graphprune.game.readers import Reader, readers_of
from graphprune.game.refits import Refit, Removals, refit, removals
from graphprune.game.value import (
    Performance,
    class_logits,
    log_likelihood,
    sample_predictions,
)
from graphprune.game.watching import Refitted, Watched, WatchedNetwork
from graphprune.graph import DependencyGraph
from graphprune.groups import UnitIds

_SEED = 0
"""Of the rows that moments are taken over: the game is the same for every estimate."""

_MOST_ENTRIES = 1 << 24
"""Entries of unfolded columns that are held at a time."""


class RepairedEvaluator(Evaluator):
    """Runs coalitions of one network with all readers refitted.

    A refit is one for all images, so the images of a pass share their coalition.

    Args:
        graph: The network.
        data: Calibration images, for second moments and for coalitions.
        running: How and where the network is run.
    """

    def __init__(
        self, graph: DependencyGraph, data: CalibrationBatches, running: Running = DEFAULT
    ) -> None:
        super().__init__(graph, data, running=running)
        self._readers = readers_of(graph)
        self._network = WatchedNetwork(self.gated, self._readers)
        self._last: tuple[bytes, _Repair] | None = None

    @property
    def together(self) -> int:
        """Coalitions in one pass."""
        return 1

    def in_full_precision(self) -> RepairedEvaluator:
        """Return an evaluator of the same coalitions that computes nothing in lower precision."""
        running = replace(self._running, precision="float32")
        return RepairedEvaluator(self.graph, self.data, running)

    def values(self, coalitions: Tensor, performance: Performance) -> Tensor:
        """Return what coalitions are worth on every image, see :meth:`Evaluator.values`."""
        rows = [self._values(kept, performance) for kept in coalitions]
        return torch.stack(rows) if rows else torch.zeros(0, self.n_images, dtype=torch.float64)

    def _values(self, kept: Tensor, performance: Performance) -> Tensor:
        repair, gates, found = self._repaired(kept), self.gates(kept), []
        for index, batch in enumerate(self.batches):
            reference = self.reference(index)
            with outside_inference(), self.in_precision():
                done = self._network.run(gates, self.inputs(batch), repair.refitted)
            logits = class_logits(done.outputs)[: batch.n_images]
            found.append(performance(logits, reference, batch.labels, *self.class_gates(gates)))
        return torch.cat(found).double().cpu()

    # ---- marginals ----------------------------------------------------------------------------

    def gradients(
        self,
        index: int,
        coalitions: Tensor,
        performance: Performance,
        generator: torch.Generator,
        n_draws: int,
    ) -> GateGradients:
        """Return first-order marginals of the units that are present, zero for the others.

        Args:
            index: Number of the batch.
            coalitions: (images, n_units) Bool, the same for all images.
            performance: What outputs are worth.
            generator: Draws predictions of the unpruned network for the Fisher term.
            n_draws: How many predictions to draw per image.

        Raises:
            OptionError: Images have different coalitions, or units are partly in.
        """
        kept = coalitions[0]
        if not bool((coalitions == kept).all() & ((kept == 0) | (kept == 1)).all()):
            raise OptionError(
                "in the repaired game all images of a pass share a coalition, and no unit is "
                "partly in",
                hint="use --estimator gradients, or play the masked game: --for-repair none",
            )
        with torch.inference_mode(False), torch.enable_grad():
            drawn = self._drawn(index, kept, generator, n_draws)
            if self._apart and len(coalitions) > 1:
                return self._marginals(index, slice(None), kept, performance, drawn)
            places = [slice(place, place + 1) for place in range(len(coalitions))]
            rows = [self._marginals(index, one, kept, performance, drawn) for one in places]
            return GateGradients(
                slope=torch.cat([row.slope for row in rows]),
                squares=torch.cat([row.squares for row in rows]),
                score=torch.cat([row.score for row in rows]),
            )

    def _drawn(
        self, index: int, kept: Tensor, generator: torch.Generator, n_draws: int
    ) -> list[Tensor]:
        opened, reference = self.class_gates(self.gates(kept)), self.reference(index)
        return [sample_predictions(reference, generator, *opened) for _ in range(n_draws)]

    def _marginals(
        self,
        index: int,
        images: slice,
        kept: Tensor,
        performance: Performance,
        drawn: Sequence[Tensor],
    ) -> GateGradients:
        """Return the marginals of some images of a batch; of one, or of all if they are apart."""
        batch, repair = self.batches[index], self._repaired(kept)
        reference = self.reference(index)[images]
        count = len(reference)
        alone = count == 1
        labels = None if batch.labels is None else batch.labels[images]
        given = tuple(filled_up(self.graph, x[images]) for x in batch.inputs)
        gates = self.gates(kept if alone else kept.expand(len(given[0]), -1)).requires_grad_()
        with self.in_precision():
            done = self._network.run(gates, [channels_last(x) for x in given], repair.refitted)
        logits, opened = class_logits(done.outputs)[:count], self.class_gates(gates)
        wanted = [performance(logits, reference, labels, *opened).sum()]
        wanted += [log_likelihood(logits, each[images], *opened).sum() for each in drawn]
        with torch.no_grad():
            effects = self._effects(_slopes(wanted, gates, done.watched), done.watched, repair)
        slope, *scores = (effects[:, :count] * kept).cpu()
        squares = sum((score.square() / len(scores) for score in scores), torch.zeros_like(slope))
        return GateGradients(slope, squares, scores[-1] if scores else torch.zeros_like(slope))

    def _effects(self, slopes: _Slopes, watched: Mapping[str, Watched], repair: _Repair) -> Tensor:
        """Return what the removal of each unit takes away, (quantities, images, n_units)."""
        found = slopes.gates[..., :-1].clone()
        for reader in self._readers:
            name = reader.layer.node
            layer, seen = self._network.layers[name], watched[name]
            places = every_place(layer, seen.y)
            columns = layer.layout.columns(seen.x, seen.y, places)
            made = torch.stack([layer.layout.outputs(s, places) for s in slopes.made[name]])
            order = self._rows(name, seen.y, found.shape[1])
            for images in torch.arange(len(order)).split(_images_at_a_time(columns, order)):
                rows = order[images]
                for group, mended in enumerate(repair.refits[name]):
                    effects = mended.effects(columns[group, rows], made[:, group, rows])
                    for units, effect in effects:
                        found[:, images[:, None], torch.from_numpy(units)] += effect.to(found)
        return found

    def _rows(self, name: str, y: Tensor, n_images: int) -> Tensor:
        """Return which rows of a reader's columns are each image's, (images, places)."""
        place = self.graph.batch_place(self.graph.nodes[name])
        if n_images == 1 or place is None:
            return torch.arange(math.prod(self._network.layers[name].layout.places(y)))[None]
        return _rows_of_images(y, self._channels(name, y.dim()), place)

    def _channels(self, name: str, rank: int) -> int:
        """Return the dim of a reader's output channels."""
        return rank + 1 - self._network.weight(name).dim()

    @cached_property
    def _apart(self) -> bool:
        """Whether it is known which image everything belongs to that readers make."""
        known = self.per_sample
        for reader in self._readers:
            node = self.graph.nodes[reader.layer.node]
            place = self.graph.batch_place(node)
            channels = self._channels(node.name, self.graph.rank(node))
            known = known and place is not None and place.known and place.dim != channels
        return known

    # ---- refits -------------------------------------------------------------------------------

    @cached_property
    def _moments(self) -> Mapping[str, Moments]:
        return gather_moments(self, self._network, self._readers, _SEED)

    def _repaired(self, kept: Tensor) -> _Repair:
        """Return the refits at a coalition; the last one's are kept."""
        key = np.packbits(kept.bool().numpy()).tobytes()
        if self._last is None or self._last[0] != key:
            # Frees the last ones first.
            self._last = None
            with outside_inference():
                self._last = key, self._refits(kept.bool())
        return self._last[1]

    def _refits(self, kept: Tensor) -> _Repair:
        refits, refitted = {}, {}
        for reader in self._readers:
            name = reader.layer.node
            layer, own = self._network.layers[name], self._network.weight(name).detach()
            matrix = layer.layout.matrix(own).cpu().double()
            present = _present(reader, kept)
            mended = [
                _Mended.of(reader, group, refit(matrix[group], gram, present[group]))
                for group, gram in enumerate(self._moments[name].gram)
            ]
            weights, shifts = zip(*(each.refit.whole() for each in mended), strict=True)
            weight = layer.layout.weight(torch.stack(weights).to(own), own)
            refitted[name] = Refitted(channels_last(weight), torch.cat(shifts).to(own))
            refits[name] = mended
        return _Repair(refits, refitted)


@dataclass(frozen=True)
class _Slopes:
    """Derivatives of some quantities.

    Args:
        gates: (quantities, images, n_units + 1) in gates, where units are consumed elsewhere.
        made: By reader, of every quantity, in what the reader made.
    """

    gates: Tensor
    made: Mapping[str, Sequence[Tensor]]


def _slopes(wanted: Sequence[Tensor], gates: Tensor, watched: Mapping[str, Watched]) -> _Slopes:
    within = [gates, *(seen.y for seen in watched.values())]
    rows = []
    for number, quantity in enumerate(wanted, 1):
        if not quantity.requires_grad:
            rows.append(tuple(torch.zeros_like(x) for x in within))
            continue
        again = number < len(wanted)
        rows.append(
            torch.autograd.grad(
                quantity, within, retain_graph=again, allow_unused=True, materialize_grads=True
            )
        )
    by_place = list(zip(*rows, strict=True))
    in_gates = torch.stack(by_place[0])
    made = dict(zip(watched, by_place[1:], strict=True))
    return _Slopes(in_gates if in_gates.dim() == 3 else in_gates[:, None], made)


@dataclass(frozen=True)
class _Mended:
    """One group of channels of a reader at a coalition.

    Args:
        refit: Its refit.
        removals: What the removal of each unit present would change.
    """

    refit: Refit
    removals: tuple[Removals, ...]

    @classmethod
    def of(cls, reader: Reader, group: int, found: Refit) -> _Mended:
        """Look at the units of a group of channels."""
        listed = (removals(found, block) for block in reader.blocks[group])
        return cls(found, tuple(each for each in listed if each is not None))

    def effects(self, columns: Tensor, slopes: Tensor) -> Iterator[tuple[UnitIds, Tensor]]:
        """Yield units and what their removal takes away, see :meth:`Removals.effects`."""
        present = with_one(columns[..., self.refit.present.to(columns.device)])
        for each in self.removals:
            yield each.units, each.effects(present, slopes)


@dataclass(frozen=True)
class _Repair:
    """All refits at a coalition, by reader: for the marginals, and as layers compute with them."""

    refits: Mapping[str, Sequence[_Mended]]
    refitted: Mapping[str, Refitted]


def _present(reader: Reader, kept: Tensor) -> Tensor:
    """Return which columns are present, (groups, columns)."""
    always = torch.cat([kept, kept.new_ones(1)])
    return always[torch.from_numpy(reader.units)]


def _images_at_a_time(columns: Tensor, order: Tensor) -> int:
    return max(_MOST_ENTRIES // max(order.shape[1] * columns.shape[-1], 1), 1)


def _rows_of_images(y: Tensor, channels: int, place: BatchPlace) -> Tensor:
    """Number the rows of what a layer makes image by image, (images, places).

    Args:
        y: What it makes; rows go through its dims but that of the channels.
        channels: The dim of the channels.
        place: Where it holds the batch.
    """
    entries = torch.arange(y.shape[place.dim])
    n_images = len(entries) // (place.outer * place.repeats)
    image = entries // place.repeats % n_images
    laid = image.reshape([-1 if dim == place.dim else 1 for dim in range(y.dim())])
    by_row = laid.expand(y.shape).select(channels, 0).flatten()
    return by_row.argsort(stable=True).reshape(n_images, -1)
