"""Performances: what a coalition's outputs are worth, image by image; higher is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from graphprune.errors import ModelError, OptionError
from graphprune.functions import UserFunction


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


@dataclass(frozen=True)
class UserValue:
    """A performance of the user's own: ``function(outputs, reference, labels)``.

    It is given copies, so that it may do with them what it likes, and returns one number per image.

    Args:
        source: The function.
        stepwise: Whether it has no derivative, see :func:`probed`.
    """

    source: UserFunction
    stepwise: bool = False

    def __str__(self) -> str:
        """Return the function's name."""
        return self.source.name

    def __call__(
        self,
        logits: Tensor,
        reference: Tensor,
        labels: Tensor | None,
        gates: Tensor | None = None,
    ) -> Tensor:
        """Return the performance of every image.

        Raises:
            OptionError: The function failed, or returned something else.
        """
        assert gates is None  # check_shrinking has refused networks whose classes may go
        copies = [None if x is None else x.clone() for x in (logits, reference, labels)]
        found = self.source.ask("value", *copies, given=_given(logits, labels))
        return self._checked(found, logits)

    def _checked(self, found: object, logits: Tensor) -> Tensor:
        allowed = f"a tensor of one number per image, shape ({len(logits)},)"
        if not isinstance(found, Tensor):
            raise self._wrong(f"returned {_article(found)}, not {allowed}")
        if found.shape != logits.shape[:1]:
            raise self._wrong(f"returned a tensor of shape {tuple(found.shape)}, not {allowed}")
        if found.is_complex():
            raise self._wrong(f"returned complex numbers, not {allowed}")
        if not bool(torch.isfinite(found.detach()).all()):
            raise self._wrong(
                "returned a number that is not finite",
                hint="a coalition may lack most units: avoid logarithms and quotients of what may "
                "be zero",
            )
        return found.to(logits)

    def _wrong(self, what: str, hint: str | None = None) -> OptionError:
        return OptionError(
            f"value {self.source.name!r} {what}",
            hint=hint
            or "it is called as function(outputs, reference, labels), see the guide "
            "'Your own value or criterion'",
        )

    def probed(self, reference: Tensor, labels: Tensor | None) -> UserValue:
        """Try the function on the unpruned network's outputs before the long work.

        Raises:
            OptionError: It cannot be used: it fails, returns something else, or an image's number
                depends on the other images or on chance.
        """
        outputs = _moved(reference, _DISTANCES[0])
        with torch.inference_mode():
            self(reference, reference, labels)
            together = self(outputs, reference, labels)
            for place, number in enumerate(together):
                one = slice(place, place + 1)
                only = None if labels is None else labels[one]
                self._check_alone(self(outputs[one], reference[one], only)[0], number)
        slopes = (self._has_slope(_moved(reference, d), reference, labels) for d in _DISTANCES)
        return UserValue(self.source, stepwise=not any(slopes))

    def _check_alone(self, alone: Tensor, together: Tensor) -> None:
        if not torch.allclose(alone.double(), together.double(), rtol=1e-3, atol=1e-5):
            raise self._wrong(
                f"gives one image {alone.item():.6g} alone and {together.item():.6g} among others",
                hint="an image's number may depend on its own outputs only, and not on chance",
            )

    def _has_slope(self, outputs: Tensor, reference: Tensor, labels: Tensor | None) -> bool:
        outputs = outputs.requires_grad_()
        try:
            with torch.enable_grad():
                worth = self(outputs, reference.clone(), labels).sum()
                slope = torch.autograd.grad(
                    worth, outputs, allow_unused=True, materialize_grads=True
                )[0]
        except (OptionError, RuntimeError):
            # It leaves torch, say, or asks for no gradient; without gradients it has just worked.
            return False
        return bool((slope != 0).any())


_DISTANCES = (0.1, 0.5, 2.0)


def _moved(reference: Tensor, distance: float) -> Tensor:
    """Return outputs some way off, without touching any random state.

    At the reference itself divergences and distances are largest and have no slope; nor have
    values near it that tolerate small changes.
    """
    wave = torch.arange(reference.numel()).reshape(reference.shape).cos().to(reference)
    return (reference + distance * (reference.std(correction=0) + 1) * wave).detach()


Value = str | UserValue
"""A performance by name, or the user's own."""


def _article(found: object) -> str:
    return "nothing" if found is None else f"an object of type {type(found).__name__}"


def _given(logits: Tensor, labels: Tensor | None) -> str:
    shape = f"outputs and reference {tuple(logits.shape)} (images, positions, classes)"
    return f"{shape} and {'no labels' if labels is None else f'labels {tuple(labels.shape)}'}"


def is_stepwise(value: Value | None) -> bool:
    """Whether a performance changes in steps only, so that gradients say nothing."""
    return value.stepwise if isinstance(value, UserValue) else value in STEPWISE


def source_of(value: Value | None) -> str:
    """Return the hash of the files that define a performance of the user's own, else ''."""
    return value.source.sha256 if isinstance(value, UserValue) else ""


def performance_named(value: Value) -> Performance:
    """Return a performance by name; the user's own is one already.

    Raises:
        OptionError: There is none of that name.
    """
    if isinstance(value, UserValue):
        return value
    if value not in PERFORMANCES:
        raise OptionError(
            f"value {value!r} is none of {', '.join(PERFORMANCES)}",
            hint="for a function of your own say package.module:function or path/file.py:function",
        )
    return PERFORMANCES[value]


def check_shrinking(value: Value) -> None:
    """Refuse performances that cannot be told that a class is gone.

    Raises:
        OptionError: It is one of those.
    """
    if value == "cross-entropy":
        reason = "is infinite once the class of a label is gone"
    elif isinstance(value, UserValue):
        reason = "is not told which classes are gone"
    else:
        return
    raise OptionError(
        f"value {str(value)!r} {reason}, and the network's outputs may shrink",
        hint="use --value kl or accuracy, or leave out --unpin-output",
    )


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
