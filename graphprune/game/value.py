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
    are (images,) or None. Where classes are units themselves, ``gates`` (images or 1, 1, classes)
    says how far each is open; a network without a class gives it no probability. Returns
    (images,).
    """

    def __call__(
        self,
        logits: Tensor,
        reference: Tensor,
        labels: Tensor | None,
        gates: Tensor | None = None,
    ) -> Tensor:
        """Return the performance of every image."""


def minus_kl(
    logits: Tensor, reference: Tensor, labels: Tensor | None, gates: Tensor | None = None
) -> Tensor:
    """Minus the Kullback-Leibler divergence from the unpruned network's prediction.

    Needs no labels. A network with one output is taken for the mean of a Gaussian of unit
    variance, whose divergence is half the squared difference.

    A network that lacks a class which the reference p thinks possible is infinitely far from it.
    So it is compared with the closest prediction to p that it can make, p restricted to the classes
    left, and pays for the way from there to p: minus the logarithm of the probability left.
    """
    del labels
    if logits.shape[-1] == 1:
        return -0.5 * (logits - reference).square().mean((1, 2))
    expected = reference.log_softmax(-1)
    if gates is not None:
        return _minus_kl_of_open(logits, expected, gates)
    difference = expected - logits.log_softmax(-1)
    return -(expected.exp() * difference).sum(-1).mean(1)


def _minus_kl_of_open(logits: Tensor, expected: Tensor, gates: Tensor) -> Tensor:
    left = _log_sum(expected, gates)
    restricted = (expected - left).clamp(max=_LARGEST_EXPONENT)
    difference = restricted - logits + _log_sum(logits, gates)
    return (left.squeeze(-1) - (gates * restricted.exp() * difference).sum(-1)).mean(1)


def minus_cross_entropy(
    logits: Tensor, reference: Tensor, labels: Tensor | None, gates: Tensor | None = None
) -> Tensor:
    """Minus the cross-entropy to the labels (the paper's performance)."""
    del reference
    assert labels is not None
    mean = logits.mean(1)
    if gates is None:
        return -F.cross_entropy(mean, labels, reduction="none")
    return _log_probability(mean, labels, gates.squeeze(1))


def accuracy(
    logits: Tensor, reference: Tensor, labels: Tensor | None, gates: Tensor | None = None
) -> Tensor:
    """1 where the most likely class is the label, else 0."""
    del reference
    assert labels is not None
    mean = logits.mean(1)
    if gates is not None:
        mean = mean.masked_fill(gates.squeeze(1) == 0, -math.inf)
    return (mean.argmax(-1) == labels).to(logits.dtype)


def _log_probability(logits: Tensor, classes: Tensor, gates: Tensor) -> Tensor:
    """Return the log-likelihood of classes (...,) under logits (..., n) whose classes are gated."""
    chosen = classes.unsqueeze(-1)
    log_gates = gates.expand_as(logits).gather(-1, chosen).log()
    found: Tensor = logits.gather(-1, chosen) + log_gates - _log_sum(logits, gates)
    return found.squeeze(-1)


def _log_sum(logits: Tensor, gates: Tensor) -> Tensor:
    """Return ``log(sum(gates * exp(logits)))`` over the last dim, which stays.

    Of an absent class the exponential only matters to the derivative, which is bounded.
    """
    largest = logits.detach().masked_fill(gates.detach() == 0, -math.inf).amax(-1, keepdim=True)
    exponentials = (logits - largest).clamp(max=_LARGEST_EXPONENT).exp()
    return largest + (gates * exponentials).sum(-1, keepdim=True).log()


_LARGEST_EXPONENT = 40.0


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
    output = outputs[class_output(outputs)]
    assert isinstance(output, Tensor)
    return _as_positions(output if output.dtype.itemsize >= 4 else output.float())


def class_output(outputs: Sequence[object]) -> int:
    """Return the place of the output that holds predictions.

    Raises:
        ModelError: No output is a floating tensor with a class dim.
    """
    for place, output in enumerate(outputs):
        if isinstance(output, Tensor) and output.is_floating_point() and output.dim() >= 2:
            return place
    raise ModelError(
        "the network returns no tensor of predictions (images, classes)",
        hint="rank with a criterion that looks at weights only, e.g. --criterion l2",
    )


def class_dim(rank: int) -> int:
    """Return the dim of predictions of some rank along which the classes lie."""
    return 1 if rank >= 4 else rank - 1


def _as_positions(output: Tensor) -> Tensor:
    if output.dim() == 2:
        return output.unsqueeze(1)
    return output if output.dim() == 3 else output.flatten(2).transpose(1, 2)


def sample_predictions(
    reference: Tensor, generator: torch.Generator, gates: Tensor | None = None
) -> Tensor:
    """Draw what the unpruned network might predict, per image and position, of the open classes."""
    if reference.shape[-1] == 1:
        noise = torch.randn(reference.shape, generator=generator, dtype=torch.float32)
        return reference + noise.to(reference)
    shares = reference.detach().softmax(-1)
    if gates is not None:
        shares = (reference.detach() + gates.detach().log()).softmax(-1)
    flat = shares.flatten(0, 1).float().cpu()
    drawn = torch.multinomial(flat, 1, generator=generator)
    return drawn.reshape(reference.shape[:-1]).to(reference.device)


def likelihood_of(logits: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return the log-likelihood of the labels, or of predictions drawn where there are none.

    Summed over the images; the unpruned network's own logits.
    """
    if labels is not None:
        return minus_cross_entropy(logits, logits, labels).sum()
    return log_likelihood(logits, sample_predictions(logits, generator)).sum()


def log_likelihood(logits: Tensor, drawn: Tensor, gates: Tensor | None = None) -> Tensor:
    """Return the log-likelihood of drawn predictions, (images,), divided by ``sqrt(positions)``.

    Positions are drawn independently, so that with this divisor the squared derivative is, on
    average, the Fisher information of the *mean* over positions, as :func:`minus_kl` takes it.
    """
    if logits.shape[-1] == 1:
        logs = -0.5 * (logits - drawn).square().squeeze(-1)
    elif gates is None:
        logs = logits.log_softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
    else:
        logs = _log_probability(logits, drawn, gates)
    return logs.sum(1) / math.sqrt(logs.shape[1])
