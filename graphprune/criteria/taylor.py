"""Gradient criteria: first-order effect of closing a unit's gate in the unpruned network.

A gate multiplies a unit wherever it is consumed; the loss's derivative in the gate at 1 is the sum
over positions and consumers of ``z * dL/dz``.
"""

from __future__ import annotations

import numpy as np
import torch

from graphprune.criteria.base import criterion
from graphprune.criteria.request import RankRequest, Scored
from graphprune.game.evaluation import Evaluator
from graphprune.game.value import minus_cross_entropy, minus_kl
from graphprune.ranking import Scores


@criterion("taylor", needs_data=True)
def taylor(request: RankRequest) -> Scored:
    """Mean over images of ``|dL/dg|``; L is the cross-entropy.

    Without labels, labels are drawn from the network's own prediction.

    References:
        Molchanov et al. (2017), arXiv 1611.06440.
    """
    return _scored(np.abs(_gate_gradients(request)))


@criterion("fisher", needs_data=True)
def fisher(request: RankRequest) -> Scored:
    """Mean over images of ``(dL/dg)^2``.

    References:
        Theis et al. (2018), Faster gaze prediction with dense networks and Fisher pruning,
        arXiv 1801.05787.
    """
    return _scored(np.square(_gate_gradients(request)))


@criterion("taylor-signed", needs_data=True)
def taylor_signed(request: RankRequest) -> Scored:
    """Mean over images of ``-dL/dg``: how much the loss is expected to rise if the unit goes."""
    return _scored(_gate_gradients(request))


def _scored(per_image: Scores) -> Scored:
    count = len(per_image)
    spread = per_image.std(0, ddof=1) if count > 1 else np.zeros(per_image.shape[1])
    return Scored(scores=per_image.mean(0), stderr=spread / np.sqrt(count), evaluations=1)


def _gate_gradients(request: RankRequest) -> Scores:
    """Return minus dL/dg of every unit on every image, (n_images, n_units)."""
    evaluator = Evaluator(request.graph, request.images, running=request.running)
    generator = torch.Generator().manual_seed(request.seed)
    labelled = request.images.has_labels
    rows = []
    for index, batch in enumerate(evaluator.batches):
        everything = torch.ones(batch.n_images, request.graph.n_units, dtype=torch.bool)
        found = evaluator.gradients(
            index,
            everything,
            minus_cross_entropy if labelled else minus_kl,
            generator,
            n_draws=0 if labelled else 1,
        )
        # At the grand coalition the divergence has no slope: take the drawn prediction's.
        rows.append(found.slope if labelled else found.score)
        request.progress("gate gradients", index + 1, len(evaluator.batches))
    return torch.cat(rows).double().numpy()
