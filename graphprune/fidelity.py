"""Fidelity: how much of what the unpruned network predicts a smaller network still predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphprune.coalition import stays
from graphprune.data import Batch, CalibrationBatches
from graphprune.errors import DataError, ModelError
from graphprune.game.evaluation import class_units, filled_up
from graphprune.game.value import class_logits, minus_kl
from graphprune.graph import DependencyGraph, Kept
from graphprune.signature import a_weight

Classes = npt.NDArray[np.int64]
"""Numbers of the classes that are left."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How near a network's predictions are to the unpruned one's, on some images.

    Args:
        n_images: How many images.
        kl: Mean Kullback-Leibler divergence from the unpruned network's prediction in nats, lower
            is better; see :func:`graphprune.game.value.minus_kl`.
        kl_stderr: Its standard error over the images.
        agreement: Share of images (and positions) with the same most likely class; None for
            networks of one output.
        accuracy: Share of images whose most likely class is the label; None without labels.
    """

    n_images: int
    kl: float
    kl_stderr: float
    agreement: float | None
    accuracy: float | None


class Judge:
    """Compares networks with the unpruned one on fixed images.

    Args:
        graph: The unpruned network.
        data: The images; labels are used where all batches have some.
    """

    def __init__(self, graph: DependencyGraph, data: CalibrationBatches) -> None:
        self._graph = graph
        self._data = data
        self._units = class_units(graph)
        self._reference = _logits(graph, graph.program.module, data)
        if not all(bool(torch.isfinite(each).all()) for each in self._reference):
            raise DataError(
                "the network's outputs on the calibration data are not finite",
                hint="check the data's normalisation (--mean, --std) and the weights",
            )

    def unpruned(self) -> Fidelity:
        """Judge the unpruned network itself."""
        return self._judged(self._reference, None)

    def judge(self, module: nn.Module, kept: Kept) -> Fidelity:
        """Judge a pruned network.

        Args:
            module: The network, in evaluation mode; it takes what the unpruned one takes, on any
                device.
            kept: The units that it has, (n_units,) Bool; says which classes are left.
        """
        logits = _logits(self._graph, module, self._data)
        return self._judged(logits, self._left(kept))

    def divergences(self, module: nn.Module, kept: Kept) -> Tensor:
        """Return a pruned network's divergence on every image, (n_images,), see :meth:`judge`."""
        logits = _logits(self._graph, module, self._data)
        classes = self._left(kept)
        return torch.cat(
            [
                _divergence(found, reference, classes)
                for found, reference in zip(logits, self._reference, strict=True)
            ]
        )

    def _left(self, kept: Kept) -> Classes | None:
        """Return which classes are left; None for all."""
        if self._units is None:
            return None
        remains = stays(self._units, kept)
        return None if remains.all() else np.flatnonzero(remains)

    def _judged(self, found: Sequence[Tensor], classes: Classes | None) -> Fidelity:
        divergences, agreeing, right = [], [], []
        for batch, logits, reference in zip(self._data, found, self._reference, strict=True):
            divergences.append(_divergence(logits, reference, classes))
            whole = _in_place(logits, reference, classes, -torch.inf)
            agreeing.append((whole.argmax(-1) == reference.argmax(-1)).double().mean(1))
            if batch.labels is not None:
                right.append(whole.mean(1).argmax(-1) == batch.labels.to(whole.device))
        kl = torch.cat(divergences)
        count = len(kl)
        many = self._reference[0].shape[-1] > 1
        return Fidelity(
            n_images=count,
            kl=float(kl.mean()),
            kl_stderr=float(kl.std(correction=1)) / count**0.5 if count > 1 else 0.0,
            agreement=float(torch.cat(agreeing).mean()) if many else None,
            accuracy=float(torch.cat(right).double().mean())
            if many and self._data.has_labels
            else None,
        )


def rises(differences: Tensor) -> bool:
    """Whether divergences rise: on average (images,), and by more than the standard error."""
    count = len(differences)
    spread = differences.std(correction=1) / count**0.5 if count > 1 else 0.0
    return not bool(differences.mean() <= spread)  # where they are not finite, too


def judge_of(graph: DependencyGraph, data: CalibrationBatches) -> Judge | None:
    """Return a judge on these images; None if the network's outputs are no predictions.

    Raises:
        DataError: The unpruned network's outputs on the images are not finite.
    """
    try:
        return Judge(graph, data)
    except ModelError:
        return None


def with_reference(
    graph: DependencyGraph, data: CalibrationBatches, kept: Kept
) -> CalibrationBatches:
    """Return data that asks a smaller network to be faithful to the unpruned one.

    Args:
        graph: The unpruned network.
        data: Images; they come back as they are if the network returns no predictions.
        kept: Units of the smaller network, (n_units,) Bool; says which classes are left.
    """
    try:
        logits, units = _logits(graph, graph.program.module, data), class_units(graph)
    except ModelError:
        return data
    remains = slice(None) if units is None else torch.from_numpy(stays(units, kept))
    batches = zip(data, logits, strict=True)
    return replace(data, batches=tuple(replace(b, reference=x[..., remains]) for b, x in batches))


def _divergence(logits: Tensor, reference: Tensor, classes: Classes | None) -> Tensor:
    """Return the divergence on every image of a batch, (images,), in double precision."""
    # Classes that are gone are not looked at, whatever finite number stands there.
    known = _in_place(logits, reference, classes, 0.0)
    return -minus_kl(known, reference, None, *_open(reference, classes)).double()


def _in_place(logits: Tensor, reference: Tensor, classes: Classes | None, gone: float) -> Tensor:
    """Put the logits of the classes left where they were, and ``gone`` where there are none."""
    if classes is None:
        return logits
    whole = torch.full_like(reference, gone)
    whole[..., torch.from_numpy(classes)] = logits
    return whole


def _open(reference: Tensor, classes: Classes | None) -> tuple[Tensor, ...]:
    """Return which classes are left; nothing if all are."""
    if classes is None:
        return ()
    gates = torch.zeros_like(reference[:1, :1])
    gates[..., torch.from_numpy(classes)] = 1
    return (gates,)


def _logits(graph: DependencyGraph, module: nn.Module, data: CalibrationBatches) -> list[Tensor]:
    weight = a_weight(module)
    dtype, device = (None, None) if weight is None else (weight.dtype, weight.device)
    with torch.no_grad():
        return [_predictions(graph, module, batch) for batch in data.to(dtype=dtype, device=device)]


def _predictions(graph: DependencyGraph, module: nn.Module, batch: Batch) -> Tensor:
    """Return (images, positions, classes) on the CPU, also where the batch size is fixed."""
    size, parts = graph.batch_size, []
    step = batch.n_images if graph.program.dynamic_batch else size
    for start in range(0, batch.n_images, step):
        taken = [x[start : start + step] for x in batch.inputs]
        outputs = pytree.tree_leaves(module(*(filled_up(graph, x) for x in taken)))
        parts.append(class_logits(outputs)[: len(taken[0])].cpu())
    return torch.cat(parts)
