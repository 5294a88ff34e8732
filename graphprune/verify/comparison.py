"""Two lists of outputs compared number by number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphprune.verify.report import Check
from graphprune.verify.tolerances import Limit

EXACT = 1e-9
"""Largest error between two float64 forms of one network, absolute or relative."""

SAME = 1e-6
"""Largest relative error between a network and what was read back from its file."""

_MISMATCHES = 1e-3
"""Largest share of unequal integers: a rounding difference may turn an arg-max."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What two forms of a network returned for one input.

    Args:
        name: Of the output.
        place: Of the output, counted from 0.
        case: Which inputs: batch, seed.
        reference: Output of the form that is right by definition.
        other: Output of the form under test.
    """

    name: str
    place: int
    case: str
    reference: Tensor
    other: Tensor


def compare(name: str, pairs: Iterable[Pair], limit: Limit) -> Check:
    """Compare outputs and keep the numbers of the worst pair.

    Args:
        name: Of the check.
        pairs: Outputs of one kind; at least one.
        limit: What passes.
    """
    checks = [_compare_one(name, pair, limit) for pair in pairs]
    worst = max(checks, key=lambda check: (not check.ok, check.max_rel or 0.0))
    return worst if not worst.ok else replace(worst, detail=f"{worst.detail} of {len(checks)} runs")


def _compare_one(name: str, pair: Pair, limit: Limit) -> Check:
    reference, other = pair.reference.detach().cpu(), pair.other.detach().cpu()
    place = f"{pair.name}, {pair.case}"
    if other.shape == (1, *reference.shape):
        # torch drops a batch of one where the network squeezes it; in ONNX the rank is fixed.
        reference = reference[None]
    if reference.shape != other.shape:
        shapes = f"{tuple(other.shape)} instead of {tuple(reference.shape)}"
        return Check(name=name, ok=False, detail=f"{place}: shape {shapes}")
    if reference.dtype != other.dtype:
        dtypes = f"{other.dtype} instead of {reference.dtype}"
        return Check(name=name, ok=False, detail=f"{place}: dtype {dtypes}")
    if not reference.is_floating_point():
        return _compare_integers(name, place, reference, other)
    broken = [word for word, x in (("the reference", reference), ("it", other)) if not _finite(x)]
    if broken:
        return Check(name=name, ok=False, detail=f"{place}: NaN or infinity in {broken[0]}")
    return _measure(name, place, reference.double(), other.double(), limit)


def _measure(name: str, place: str, reference: Tensor, other: Tensor, limit: Limit) -> Check:
    difference = (reference - other).abs().flatten()
    if not difference.numel():
        return Check(name=name, ok=True, detail=f"{place}: empty")
    largest, scale = float(difference.max()), float(reference.abs().max())
    ok = largest <= limit.absolute + limit.relative * scale
    mean, p99 = float(difference.mean()), _percentile(difference)
    share = _share(largest, scale)
    words = "equal bit for bit" if largest == 0 else f"differs by {share:.1e} of {scale:.3g}"
    return Check(
        name=name,
        ok=ok,
        detail=f"{place}: {words}, worst" if ok else f"{place}: {words}",
        max_abs=largest,
        max_rel=share,
        mean_abs=mean,
        p99_abs=p99,
        mean_rel=_share(mean, scale),
        p99_rel=_share(p99, scale),
        cosine=_cosine(reference.flatten(), other.flatten()),
        tolerance=limit.relative,
    )


def _percentile(difference: Tensor) -> float:
    """Return what 99 % of the differences stay below."""
    rank = max(1, round(0.99 * difference.numel()))
    return float(difference.kthvalue(rank).values)


def _share(difference: float, scale: float) -> float:
    if scale:
        return difference / scale
    return float("inf") if difference else 0.0


def _compare_integers(name: str, place: str, reference: Tensor, other: Tensor) -> Check:
    unequal = (reference != other).flatten().double()
    share = float(unequal.mean()) if unequal.numel() else 0.0
    return Check(
        name=name,
        ok=share <= _MISMATCHES,
        detail=f"{place}: {share:.1%} of the integers differ",
        max_rel=share,
        tolerance=_MISMATCHES,
    )


def _cosine(a: Tensor, b: Tensor) -> float:
    lengths = float(a.norm() * b.norm())
    if lengths:
        return float(a @ b) / lengths
    return 1.0 if torch.equal(a, b) else 0.0


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
