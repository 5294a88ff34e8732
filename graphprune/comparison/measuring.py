"""Measuring masked networks: loss and share of right answers of coalitions within one group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphprune.data import CalibrationBatches
from graphprune.errors import ModelError
from graphprune.game.evaluation import DEFAULT, Evaluator, Running, class_units
from graphprune.game.value import accuracy, performance_named
from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import PruningGroup
from graphprune.ranking import Scores


@dataclass(frozen=True)
class Measured:
    """What coalitions of one group's units lose; all units of other groups are kept.

    Args:
        loss: Mean over the images, (n_coalitions,), lower is better.
        right: Share of images that are right, (n_coalitions,); None for networks of one output.
    """

    loss: Scores
    right: Scores | None


class GroupMeasure:
    """Runs the network with some units of one group masked.

    The loss is the cross-entropy where there are labels, else the divergence from the unpruned
    network. Right is the label, or without labels what the unpruned network says.

    Args:
        graph: The network.
        group: The group whose units may be absent.
        data: The images.
        running: How and where the network is run.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        group: PruningGroup,
        data: CalibrationBatches,
        running: Running = DEFAULT,
    ) -> None:
        players = np.zeros(graph.n_units, bool)
        players[group.span] = True
        self._group = group
        self._evaluator = Evaluator(graph, data, players, running)
        self._loss = performance_named(loss_name(graph, data))
        self._right = accuracy if data.has_labels else agreement

    def measure(self, coalitions: Sequence[Kept]) -> Measured:
        """Measure coalitions, equal ones once.

        Args:
            coalitions: For every coalition, which of the group's units are kept, (group,) Bool.

        Raises:
            ModelError: The masked network's outputs are not finite.
        """
        rows, places = np.unique(np.stack(coalitions), axis=0, return_inverse=True)
        kept = torch.ones(len(rows), self._evaluator.graph.n_units, dtype=torch.bool)
        kept[:, self._group.span] = torch.from_numpy(rows)
        loss, right = self._evaluator.values(kept, self._both).mean(1).numpy()[places].T
        if not np.isfinite(loss).all():
            raise ModelError(
                f"without some units of {self._group.name} the network's outputs are not finite",
                hint="leave the group out with --skip",
            )
        return Measured(loss, right if self._evaluator.reference(0).shape[-1] > 1 else None)

    def _both(
        self, logits: Tensor, reference: Tensor, labels: Tensor | None, gates: Tensor | None = None
    ) -> Tensor:
        """Return loss and share that is right, (images, 2)."""
        loss = -self._loss(logits, reference, labels, gates)
        return torch.stack([loss, self._right(logits, reference, labels, gates)], -1)


def loss_name(graph: DependencyGraph, data: CalibrationBatches) -> str:
    """Return the loss: ``cross-entropy`` where labels allow it, else ``kl``."""
    return "cross-entropy" if data.has_labels and class_units(graph) is None else "kl"


def agreement(
    logits: Tensor, reference: Tensor, labels: Tensor | None, gates: Tensor | None = None
) -> Tensor:
    """Share of positions at which the most likely class is the unpruned network's."""
    del labels
    if gates is not None:
        logits = logits.masked_fill(gates == 0, -torch.inf)
    return (logits.argmax(-1) == reference.argmax(-1)).to(logits.dtype).mean(1)
