"""Performances: what a coalition's outputs are worth, image by image; higher is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from graphprune.errors import ModelError, OptionError


class Performance(Protocol):
    """Per-image performance of a coalition.

    ``logits`` and ``reference`` (the unpruned network's) are (images, positions, classes); labels
    are (images,) or None. Returns (images,).
    """

    def __call__(self, logits: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
        """Return the performance of every image."""


def minus_kl(logits: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
    """Minus the Kullback-Leibler divergence from the unpruned network's prediction.

    Needs no labels. A network with one output is taken for the mean of a Gaussian of unit
    variance, whose divergence is half the squared difference.
    """
    del labels
    if logits.shape[-1] == 1:
        return -0.5 * (logits - reference).square().mean((1, 2))
    expected = reference.softmax(-1)
    difference = reference.log_softmax(-1) - logits.log_softmax(-1)
    return -(expected * difference).sum(-1).mean(1)


def minus_cross_entropy(logits: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
    """Minus the cross-entropy to the labels (the paper's performance)."""
    del reference
    assert labels is not None
    return -F.cross_entropy(logits.mean(1), labels, reduction="none")


def accuracy(logits: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
    """1 where the most likely class is the label, else 0."""
    del reference
    assert labels is not None
    return (logits.mean(1).argmax(-1) == labels).to(logits.dtype)


PERFORMANCES: dict[str, Performance] = {
    "kl": minus_kl,
    "cross-entropy": minus_cross_entropy,
    "accuracy": accuracy,
}
"""Performances by the name that ``--value`` takes."""

NEEDS_LABELS = frozenset({"cross-entropy", "accuracy"})
"""Performances that compare with labels."""

STEPWISE = frozenset({"accuracy"})
"""Performances whose derivative is zero wherever it exists, so that gradients say nothing."""


def performance_named(name: str) -> Performance:
    """Return a performance by name.

    Raises:
        OptionError: There is none of that name.
    """
    if name not in PERFORMANCES:
        raise OptionError(f"value {name!r} is none of {', '.join(PERFORMANCES)}")
    return PERFORMANCES[name]


def class_logits(outputs: Sequence[object]) -> Tensor:
    """Return the network's first tensor output as (images, positions, classes).

    Outputs of rank 4 and more have their classes in dim 1 (segmentation), sequences in the last.
    Half precision is raised to single.

    Raises:
        ModelError: No output is a floating tensor with a class dim.
    """
    for output in outputs:
        if isinstance(output, Tensor) and output.is_floating_point() and output.dim() >= 2:
            return _as_positions(output if output.dtype.itemsize >= 4 else output.float())
    raise ModelError(
        "the network returns no tensor of predictions (images, classes)",
        hint="rank with a criterion that looks at weights only, e.g. --criterion l2",
    )


def _as_positions(output: Tensor) -> Tensor:
    if output.dim() == 2:
        return output.unsqueeze(1)
    return output if output.dim() == 3 else output.flatten(2).transpose(1, 2)


def sample_predictions(reference: Tensor, generator: torch.Generator) -> Tensor:
    """Draw what the unpruned network might predict, per image and position."""
    if reference.shape[-1] == 1:
        noise = torch.randn(reference.shape, generator=generator, dtype=torch.float32)
        return reference + noise.to(reference)
    flat = reference.detach().softmax(-1).flatten(0, 1).float().cpu()
    drawn = torch.multinomial(flat, 1, generator=generator)
    return drawn.reshape(reference.shape[:-1]).to(reference.device)


def log_likelihood(logits: Tensor, drawn: Tensor) -> Tensor:
    """Return the log-likelihood of drawn predictions, (images,), divided by ``sqrt(positions)``.

    Positions are drawn independently, so that with this divisor the squared derivative is, on
    average, the Fisher information of the *mean* over positions, as :func:`minus_kl` takes it.
    """
    if logits.shape[-1] == 1:
        logs = -0.5 * (logits - drawn).square().squeeze(-1)
    else:
        logs = logits.log_softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
    return logs.sum(1) / math.sqrt(logs.shape[1])
