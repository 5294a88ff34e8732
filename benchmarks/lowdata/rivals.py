"""torch-pruning out of the box: its own graph, its own selection, its own removal.

Its budget is a share of channels, so it goes on in small parts, as its own benchmark does, until
the multiply-accumulates asked for are gone. Its gradients see the labels of the calibration images,
which nobody else is shown. Where it takes a padded shortcut for an elementwise operation, a second
entry leaves the streams alone, as its users do.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import graphprune as gp
from benchmarks.lowdata.contenders import Contender, Stage, Timed
from benchmarks.lowdata.subjects import BATCH, Images
from graphprune.errors import BudgetError
from graphprune.surgery import PrunedModel, cut

THEIRS = "torch-pruning"

IMPORTANCES = ("GroupMagnitude", "GroupTaylor", "GroupHessian", "LAMP")

REPAIRS = ("none", "batchnorm")
"""Its networks are not ours: there is no original to refit them to."""

_PARTS = 400
"""Parts that all channels are taken away in."""


def rivals(streams: bool) -> list[Contender]:
    """Return its importances; with ``streams``, each also with streams left alone."""
    choices = (True, False) if streams else (True,)
    return [rival(name, pruned) for pruned in choices for name in IMPORTANCES]


def rival(importance: str, streams: bool) -> Contender:
    """Return one of its importances, global.

    Args:
        importance: Its name.
        streams: Whether streams may be pruned.
    """

    def prune(stage: Stage, ratio: float, repair: str) -> Timed[PrunedModel]:
        del repair
        shown = stage.once(lambda: _shown(stage, importance), THEIRS, importance)
        found = stage.once(
            lambda: as_ours(
                _smallest(shown.made.copied(), stage, ratio, streams), stage.images.x[:2]
            ),
            THEIRS,
            importance,
            streams,
            ratio,
        )
        return Timed(found.made, shown.seconds + found.seconds)

    name = f"torch-pruning {importance}" + ("" if streams else ", interiors")
    return Contender(name, prune, THEIRS, REPAIRS)


@dataclass(frozen=True)
class Shown:
    """A network with the gradients that an importance asks for."""

    model: nn.Module
    importance: Any

    def copied(self) -> Shown:
        """Return a copy that may be pruned; the importance knows parameters of its own model."""
        model, importance = copy.deepcopy((self.model, self.importance))
        for old, new in zip(self.model.parameters(), model.parameters(), strict=True):
            new.grad = None if old.grad is None else old.grad.clone()
        return Shown(model, importance)


def _shown(stage: Stage, name: str) -> Shown:
    """Do what its documentation asks for before it scores."""
    import torch_pruning as tp

    model = copy.deepcopy(stage.subject.model)
    importance = getattr(tp.importance, f"{name}Importance")()
    images = stage.images
    if name == "GroupTaylor":
        for x, y in _batches(images, BATCH):
            (F.cross_entropy(model(x), y, reduction="sum") / len(images)).backward()
    elif name == "GroupHessian":
        importance.zero_grad()
        for x, y in _batches(images, 1):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            importance.accumulate_grad(model)
    return Shown(model, importance)


def _smallest(shown: Shown, stage: Stage, ratio: float, streams: bool) -> nn.Module:
    """Take channels away, a small part at a time, until enough is gone.

    Raises:
        BudgetError: It stops before.
    """
    import torch_pruning as tp

    example, model = stage.images.x[:1], shown.model
    enough = (1 - ratio) * macs(model, example)
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    kept = () if streams else stage.subject.streams
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            model,
            example,
            importance=shown.importance,
            global_pruning=True,
            pruning_ratio=1.0,
            iterative_steps=_PARTS,
            ignored_layers=[classifier, *map(model.get_submodule, kept)],
        )
        for _ in range(_PARTS):
            pruner.step()
            if macs(model, example) <= enough:
                model.zero_grad()
                return model
    raise BudgetError(f"torch-pruning cannot remove {ratio:.0%} of the macs")


def _batches(images: Images, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(images.x.split(size), images.y.split(size), strict=True)


def as_ours(pruned: nn.Module, example: Tensor) -> PrunedModel:
    """Return its network as one that graphprune can repair."""
    graph = gp.trace(pruned, (example,))
    return cut(graph, graph.all_kept())


def macs(model: nn.Module, example: Tensor) -> int:
    """Return the multiply-accumulates of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    return counter.get_total_flops() // 2 // len(example)
