"""Histograms of a group's scores: kept and removed units, stacked, as paths of an SVG."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

WIDTH, HEIGHT = 240, 36
"""Size of the drawing in its own units."""

BASE = 30
"""Where the bars stand; the line of the standard error is drawn below."""

_BINS = 40
_WIDE_RANGE = 50.0
"""Scores without negative ones that spread wider than this are drawn on a logarithmic scale."""

_DECADES = 1e-4
"""Share of the highest score at which a logarithmic scale begins; lower ones lie on its end."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """What the template draws.

    Args:
        kept: Path of the bars of kept units.
        removed: Path of the bars of removed units.
        error: Path of the line that spans one standard error to each side of the cut; '' if there
            is no cut or no error.
        lowest: The lowest score.
        highest: The highest score.
        logarithmic: The scale is logarithmic.
        label: The drawing in words.
    """

    kept: str
    removed: str
    error: str
    lowest: str
    highest: str
    logarithmic: bool
    label: str


def histogram(scores: Floats, stderr: Floats, is_kept: npt.NDArray[np.bool_]) -> Histogram:
    """Draw the scores of one group.

    Args:
        scores: (n_units,), at least one.
        stderr: (n_units,) standard errors of the scores.
        is_kept: (n_units,) whether each unit is kept.
    """
    scale = _Scale.of(scores)
    places = scale.place(scores)
    bins = np.minimum((places / WIDTH * _BINS).astype(int), _BINS - 1)
    gone = np.bincount(bins[~is_kept], minlength=_BINS).astype(np.float64)
    stay = np.bincount(bins[is_kept], minlength=_BINS).astype(np.float64)
    unit = (BASE - 2) / float((gone + stay).max())
    return Histogram(
        kept=_bars(gone * unit, stay * unit),
        removed=_bars(np.zeros(_BINS), gone * unit),
        error=_error_line(scale, scores, stderr, is_kept),
        lowest=f"≤ {scale.start:.3g}" if scale.start > scores.min() else f"{scores.min():.3g}",
        highest=f"{scores.max():.3g}",
        logarithmic=scale.logarithmic,
        label=f"scores from {scores.min():.3g} to {scores.max():.3g}; "
        f"{int(is_kept.sum())} units kept, {int((~is_kept).sum())} removed",
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    start: float
    high: float
    logarithmic: bool

    @staticmethod
    def of(scores: Floats) -> _Scale:
        low, high = float(scores.min()), float(scores.max())
        least = float(scores[scores > 0].min(initial=high))
        if low >= 0 and high > _WIDE_RANGE * least:
            return _Scale(max(least, high * _DECADES), high, True)
        return _Scale(low, high, False)

    def place(self, scores: Floats) -> Floats:
        """Return horizontal places; scores beyond the ends lie on them."""
        if self.high <= self.start:
            return np.full(scores.shape, WIDTH / 2)
        values = np.clip(scores, self.start, self.high)
        if self.logarithmic:
            share = np.log(values / self.start) / np.log(self.high / self.start)
        else:
            share = (values - self.start) / (self.high - self.start)
        return np.asarray(share * WIDTH, np.float64)


def _bars(start: Floats, height: Floats) -> str:
    wide = WIDTH / _BINS
    return "".join(
        f"M{k * wide:g} {BASE - start[k]:.1f}v{-height[k]:.1f}h{wide - 1:g}v{height[k]:.1f}z"
        for k in np.flatnonzero(height > 0)
    )


def _error_line(
    scale: _Scale, scores: Floats, stderr: Floats, is_kept: npt.NDArray[np.bool_]
) -> str:
    """Where removed and kept units meet, with the standard error of the scores there."""
    if is_kept.all() or not is_kept.any():
        return ""
    last, first = scores[~is_kept].max(), scores[is_kept].min()
    edge = np.array([np.flatnonzero(~is_kept)[scores[~is_kept].argmax()],
                     np.flatnonzero(is_kept)[scores[is_kept].argmin()]])  # fmt: skip
    error = float(stderr[edge].mean())
    if error <= 0:
        return ""
    cut = (last + first) / 2
    left, right = scale.place(np.array([cut - error, cut + error]))
    return f"M{left:.1f} {BASE + 3}H{right:.1f}"
