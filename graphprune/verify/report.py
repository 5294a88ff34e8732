"""The outcome of a validation: checks, each with its verdict and the numbers behind it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from torch import Tensor

from graphprune.errors import ValidationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was checked. The numbers are None where nothing was compared.

    Args:
        name: What, in a few words.
        ok: Whether it holds.
        detail: What was found, in a sentence.
        max_abs: Largest absolute difference.
        max_rel: Largest absolute difference, divided by the largest magnitude of the reference.
        mean_abs: Mean absolute difference.
        p99_abs: What 99 % of the absolute differences stay below.
        mean_rel: ``mean_abs``, divided like ``max_rel``.
        p99_rel: ``p99_abs``, divided like ``max_rel``.
        cosine: Cosine of the angle between the outputs; 1 = same direction.
        tolerance: Largest ``max_rel`` that passes.
    """

    name: str
    ok: bool
    detail: str
    max_abs: float | None = None
    max_rel: float | None = None
    mean_abs: float | None = None
    p99_abs: float | None = None
    mean_rel: float | None = None
    p99_rel: float | None = None
    cosine: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Witness:
    """What shows a divergence.

    Args:
        model: The nodes from the last values that agree to the first that differs.
        inputs: Values that agree, by name.
        expected: What the network computes there; None where that is unknown.
    """

    model: onnx.ModelProto
    inputs: dict[str, Tensor]
    expected: Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Divergence:
    """Where a file parts from its network.

    Args:
        case: Which inputs show it.
        node: Name of the file's node.
        op: Its operator.
        value: The value that it computes.
        error: Largest difference there, as a share of the largest magnitude; None if unknown.
        module: Dotted path of the network's module that computes the value.
        source: ``file:line`` of the call, where known.
        weights: Weights that take part.
        groups: Pruning groups that these weights compute units of, or else read.
        witness: The part of the file that shows it.
    """

    case: str
    node: str
    op: str
    value: str
    error: float | None
    module: str
    source: str
    weights: tuple[str, ...]
    groups: tuple[str, ...]
    witness: Witness


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """All checks of a validation.

    Args:
        checks: In the order in which they were made.
        divergence: Where onnxruntime parts from torch, if it does and that could be found.
    """

    checks: tuple[Check, ...]
    divergence: Divergence | None = None

    @property
    def ok(self) -> bool:
        """Whether every check holds (and there is one)."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.ok)


def raise_for(report: ValidationReport) -> None:
    """Do nothing if every check holds.

    Raises:
        ValidationError: One does not; the message lists those that failed.
    """
    if report.ok:
        return
    listed = "; ".join(f"{check.name}: {check.detail}" for check in report.failed)
    raise ValidationError(
        f"{len(report.failed)} of {len(report.checks)} checks failed: {listed or 'none was made'}",
        hint="the two forms are not one network; export again, and report it if it fails again",
    )
