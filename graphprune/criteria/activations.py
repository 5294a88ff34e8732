"""Criteria that look at a unit's activation itself, where it is read."""

from __future__ import annotations

import torch
from torch import Tensor

from graphprune.criteria.base import criterion
from graphprune.criteria.request import RankRequest, Scored
from graphprune.game.reading import ActivationReader
from graphprune.game.value import class_logits, likelihood_of


@criterion("apoz", needs_data=True)
def apoz(request: RankRequest) -> Scored:
    """Share of images and positions at which a unit's activation is positive where it is read.

    One minus the average percentage of zeros behind a ReLU. Where several layers read a unit, the
    mean over what they read.

    References:
        Hu et al. (2016), Network Trimming: A Data-Driven Neuron Pruning Approach, arXiv 1607.03250.
    """
    reader = ActivationReader(request.graph, request.images, request.device)
    for index in range(reader.n_batches):
        with torch.no_grad():
            reader.run(index)
            reader.add(_positive)
            share = reader.filled(index)
            if share:  # what fills a batch up counts for nothing
                reader.run(index, first_only=True)
                reader.add(_positive, times=-share)
        request.progress("activations", index + 1, reader.n_batches)
    return Scored(scores=reader.sums / reader.weights.clip(1), evaluations=1)


def _positive(z: Tensor) -> Tensor:
    return (z > 0).to(torch.float64)


@criterion("sensitivity", needs_data=True)
def sensitivity(request: RankRequest) -> Scored:
    """Mean over images of ``|dL/dz|``, summed over the positions of a unit where it is read.

    L is the cross-entropy; without labels, labels are drawn from the network's own prediction.

    References:
        Mittal et al. (2018), arXiv 1801.10447; metric ``sensitivity`` of Ancona, Öztireli and Gross
        (2020), arXiv 2006.01795.
    """
    reader = ActivationReader(request.graph, request.images, request.device)
    generator = torch.Generator().manual_seed(request.seed)
    for index in range(reader.n_batches):
        with torch.enable_grad():
            outputs = reader.run(index, differentiable=True)
            likelihood_of(class_logits(outputs), reader.labels(index), generator).backward()
        reader.add(lambda z: torch.zeros_like(z) if z.grad is None else z.grad.abs())
        request.progress("activation gradients", index + 1, reader.n_batches)
    return Scored(scores=reader.sums / request.images.n_images, evaluations=1)
