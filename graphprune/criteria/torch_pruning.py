"""torch-pruning's own importances, asked about our groups.

Its importances look at layers and at which of their channels belong to which unit. They are shown
stand-ins: one linear layer (or norm) per parameter axis of a group, whose row k is all that unit k
has there. So they also score units that torch-pruning does not find itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphprune.criteria.base import criterion
from graphprune.criteria.request import RankRequest, Scored
from graphprune.criteria.scales import norm_weights
from graphprune.errors import OptionError
from graphprune.game.evaluation import filled_up, passes_of
from graphprune.game.value import class_logits, likelihood_of
from graphprune.graph import DependencyGraph
from graphprune.groups import Member, PruningGroup
from graphprune.tracing import named_tensors

PREFIX = "torch-pruning:"

WEIGHTS_ONLY = ("GroupMagnitude", "Magnitude", "BNScale", "FPGM", "LAMP")
"""Its importances that look at weights alone."""

FIRST_ORDER = ("GroupTaylor", "Taylor")
"""Those that look at gradients of the mean loss."""

SECOND_ORDER = ("GroupHessian", "Hessian")
"""Those that look at the mean squared gradient of single images."""

_BATCH_NORM = "aten.batch_norm.default"
_NORMS = {_BATCH_NORM: 1, "aten.layer_norm.default": 2}
"""Norms that its importances know, and where their weight stands among the arguments."""


@dataclass(frozen=True)
class _Target:
    module: nn.Module


@dataclass(frozen=True)
class _Dependency:
    """What an importance asks of ``torch_pruning.Dependency``."""

    target: _Target
    handler: Callable[..., Any]

    @property
    def layer(self) -> nn.Module:
        """The stand-in layer."""
        return self.target.module

    @property
    def pruning_fn(self) -> Callable[..., Any]:
        """Tells importances what the axis is."""
        return self.handler


@dataclass(frozen=True)
class _Item:
    """One member of a group: a layer, its rows, and the unit that each belongs to."""

    dependency: _Dependency
    rows: list[int]
    root_idxs: list[int]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.dependency, self.rows))


def _add(name: str) -> None:
    needs_data = name not in WEIGHTS_ONLY

    @criterion(PREFIX + name, needs_data=needs_data)
    def importance(request: RankRequest) -> Scored:
        return _scored(request, name)

    importance.__doc__ = f"``torch_pruning.importance.{name}Importance`` with its own defaults."


for _name in (*WEIGHTS_ONLY, *FIRST_ORDER, *SECOND_ORDER):
    _add(_name)


def _scored(request: RankRequest, name: str) -> Scored:
    """Ask one of its importances about every group.

    Raises:
        OptionError: It has no score for any group.
    """
    import torch_pruning

    graph = request.graph
    asked = getattr(torch_pruning.importance, f"{name}Importance")()
    gradients = {} if name in WEIGHTS_ONLY else _gradients(request, squared=name in SECOND_ORDER)
    stand_ins = _StandIns(graph, gradients)
    scores, without = np.zeros(graph.n_units), []
    for place, group in enumerate(graph.groups):
        found = asked(list(stand_ins.of(group)))
        if found is None:
            without.append(group.name)
        else:
            scores[group.span] = found.double().numpy()
        request.progress("groups", place + 1, len(graph.groups))
    if graph.groups and len(without) == len(graph.groups):
        raise OptionError(
            f"criterion {PREFIX + name!r} has no score for any group of this network",
            hint="use another criterion, e.g. --criterion torch-pruning:GroupMagnitude",
        )
    evaluations = 0 if name in WEIGHTS_ONLY else 1
    return Scored(scores=scores, evaluations=evaluations, left_alone=tuple(without))


class _StandIns:
    def __init__(self, graph: DependencyGraph, gradients: Mapping[str, Tensor]) -> None:
        self._tensors = named_tensors(graph.program.module)
        self._gradients = gradients
        self._norms = norm_weights(graph, _NORMS)

    def of(self, group: PruningGroup) -> Iterator[_Item]:
        """Yield a stand-in for every axis of a layer's or norm's weight, producers first."""
        for member in group.members:
            norm = self._norms.get(member.parameter)
            layered = member.role != "follower" and self._tensors[member.parameter].dim() > 1
            if norm is not None or layered:
                yield self._item(group, member, norm)

    def _item(self, group: PruningGroup, member: Member, norm: str | None) -> _Item:
        units, rows = _rows(self._tensors[member.parameter], member, group)
        gradient = self._gradients.get(member.parameter)
        slopes = None if gradient is None else _rows(gradient, member, group)[1]
        return _Item(_stand_in(rows, slopes, norm), list(range(len(units))), units)


def _rows(tensor: Tensor, member: Member, group: PruningGroup) -> tuple[list[int], Tensor]:
    """Return the units on an axis and, as one row each, all that they have there."""
    local = member.units - group.first
    inside = np.flatnonzero((local >= 0) & (local < group.n_units))
    order = inside[np.argsort(local[inside], kind="stable")]
    units, counts = np.unique(local[order], return_counts=True)
    axis_first = tensor.detach().cpu().float().movedim(member.dim, 0)
    entries = axis_first.reshape(len(axis_first), -1)[order.tolist()]
    parts = [part.flatten() for part in entries.split(counts.tolist())]
    return units.tolist(), nn.utils.rnn.pad_sequence(parts, batch_first=True)


def _stand_in(rows: Tensor, slopes: Tensor | None, norm: str | None) -> _Dependency:
    from torch_pruning.pruner import function

    count, width = rows.shape
    layer: nn.Module
    if norm is None:  # without memory of its own: it would draw weights
        layer, handler = (
            nn.Linear(width, count, bias=False, device="meta"),
            function.prune_linear_out_channels,
        )
    elif norm == _BATCH_NORM:
        layer, handler = nn.BatchNorm1d(count), function.prune_batchnorm_out_channels
    else:
        layer, handler = nn.LayerNorm(count), function.prune_layernorm_out_channels
    # A norm that meets a unit several times (a column of every head) counts with its mean size.
    weight = nn.Parameter(rows if norm is None else rows.abs().mean(1))
    if slopes is not None:
        weight.grad = slopes if norm is None else slopes.mean(1)
    layer.register_parameter("weight", weight)
    return _Dependency(_Target(layer), handler)


def _gradients(request: RankRequest, *, squared: bool) -> dict[str, Tensor]:
    """Return, by parameter, the gradient of the mean loss or the mean squared one of an image.

    The loss is the cross-entropy; without labels, labels are drawn from the network's prediction.
    """
    module = copy.deepcopy(request.graph.program.module).to(request.device)
    weights = {name: p for name, p in module.named_parameters() if p.is_floating_point()}
    for weight in weights.values():
        weight.requires_grad_()
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    generator = torch.Generator().manual_seed(request.seed)
    size = 1 if squared else passes_of(request.graph)
    images = request.images.rebatched(size).to(device=request.device)
    for index, batch in enumerate(images.batches):
        with torch.enable_grad():
            inputs = (filled_up(request.graph, x) for x in batch.inputs)
            logits = class_logits(pytree.tree_leaves(module(*inputs)))[: batch.n_images]
            loss = -likelihood_of(logits, batch.labels, generator)
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, found, strict=True):
            if gradient is not None:
                sums[name] += gradient.square() if squared else gradient
        request.progress("gradients", index + 1, len(images.batches))
    return {name: total / images.n_images for name, total in sums.items()}
