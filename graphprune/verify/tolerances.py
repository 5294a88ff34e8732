"""Tolerances: how far onnxruntime may be from torch, by output and by dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from graphprune.errors import OptionError
from graphprune.tracing import named_tensors

TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 1e-2,
}
"""Largest relative error between two runtimes, by the dtype of the network."""

_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """What passes for one output or one dtype.

    Args:
        of: An output, as the ONNX file names it, or a dtype such as ``float16``.
        rtol: Largest relative error; None where only ``atol`` is meant.
        atol: Absolute error that passes besides; None where only ``rtol`` is meant.
    """

    of: str
    rtol: float | None = None
    atol: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """What passes: a difference of at most ``absolute + relative * largest reference value``."""

    relative: float
    absolute: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What passes, output by output.

    Args:
        default: For outputs that are not listed.
        listed: Name and limit of the first outputs, in order.
    """

    default: Limit
    listed: tuple[tuple[str, Limit], ...] = ()

    def of(self, place: int) -> Limit:
        """Return the limit of an output."""
        return self.listed[place][1] if place < len(self.listed) else self.default

    def name(self, place: int) -> str:
        """Return what an output is called."""
        known = f" ({self.listed[place][0]})" if place < len(self.listed) else ""
        return f"output {place}{known}"


def limits_for(
    network: nn.Module,
    outputs: Sequence[str],
    *,
    rtol: float | None,
    atol: float,
    own: Sequence[Tolerance] = (),
) -> Limits:
    """Return the limits between two runtimes.

    What is said of an output goes before what is said of a dtype, this before ``rtol`` and
    ``atol``, and these before the default: that of the coarsest dtype of the weights.

    Args:
        network: The network.
        outputs: Names of the file's outputs.
        rtol: Relative error of all outputs; None for the dtype's own.
        atol: Absolute error of all outputs.
        own: Tolerances of single outputs and dtypes.

    Raises:
        OptionError: A tolerance is of neither an output nor a dtype.
    """
    _require_known(own, outputs)
    general = _general(network, rtol, atol, own)
    listed = tuple((name, _refined(general, own, name)) for name in outputs)
    return Limits(default=general, listed=listed)


def _general(
    network: nn.Module, rtol: float | None, atol: float, own: Sequence[Tolerance]
) -> Limit:
    dtypes = {tensor.dtype for tensor in named_tensors(network).values()} & TOLERANCES.keys()
    coarsest = max(dtypes, key=TOLERANCES.__getitem__, default=torch.float32)
    limit = Limit(relative=TOLERANCES[coarsest] if rtol is None else rtol, absolute=atol)
    return _refined(limit, own, str(coarsest).removeprefix("torch."))


def _refined(limit: Limit, own: Sequence[Tolerance], of: str) -> Limit:
    for tolerance in own:
        if tolerance.of == of:
            limit = Limit(
                relative=limit.relative if tolerance.rtol is None else tolerance.rtol,
                absolute=limit.absolute if tolerance.atol is None else tolerance.atol,
            )
    return limit


def _require_known(own: Sequence[Tolerance], outputs: Sequence[str]) -> None:
    unknown = [tolerance.of for tolerance in own if tolerance.of not in {*outputs, *_BY_NAME}]
    if unknown:
        raise OptionError(
            f"there is a tolerance for {unknown[0]!r}, which is neither an output of the file "
            f"({', '.join(outputs)}) nor a dtype ({', '.join(_BY_NAME)})",
            hint="name an output as the file does",
        )
