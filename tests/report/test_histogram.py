"""Histograms: areas count units, scales fit the scores, the cut has its error."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.report.histogram import HEIGHT, WIDTH, histogram


def heights(path: str) -> float:
    return sum(float(height) for height in re.findall(r"v(\d+\.\d)z", path))


@given(
    scores=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    bits=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_bars_stay_inside_and_count_units(scores: list[float], bits: list[bool]) -> None:
    is_kept = np.array(bits[: len(scores)])
    drawn = histogram(np.array(scores), np.full(len(scores), 0.1), is_kept)
    for path in (drawn.kept, drawn.removed, drawn.error):
        for x, y in re.findall(r"M(-?[\d.]+) (-?[\d.]+)", path):
            assert 0 <= float(x) <= WIDTH
            assert 0 <= float(y) <= HEIGHT
    total = heights(drawn.kept) + heights(drawn.removed)
    if is_kept.any() and not is_kept.all():
        share = heights(drawn.kept) / total
        assert share == pytest.approx(is_kept.mean(), abs=0.1)


def test_heavy_tails_are_drawn_on_a_logarithmic_scale() -> None:
    stderr, kept = np.zeros(4), np.ones(4, bool)
    assert histogram(np.array([1e-3, 1e-2, 0.1, 1.0]), stderr, kept).logarithmic
    drawn = histogram(np.array([0.0, 1e-2, 0.1, 1.0]), stderr, kept)
    assert drawn.logarithmic
    assert drawn.lowest == "≤ 0.01"
    assert not histogram(np.array([-1.0, 1e-2, 0.1, 1.0]), stderr, kept).logarithmic
    assert not histogram(np.array([0.5, 0.6, 0.7, 1.0]), stderr, kept).logarithmic


def test_equal_scores_stand_in_the_middle() -> None:
    drawn = histogram(np.zeros(3), np.zeros(3), np.array([True, True, False]))
    assert float(drawn.kept[1:].split()[0]) == WIDTH / 2


def test_the_cut_has_its_error() -> None:
    scores, kept = np.array([0.0, 1.0, 3.0, 4.0]), np.array([False, False, True, True])
    # Halfway between 1 and 3, half a unit to each side, on a scale from 0 to 4.
    drawn = histogram(scores, np.full(4, 0.5), kept)
    assert drawn.error == f"M{1.5 / 4 * WIDTH:.1f} 33H{2.5 / 4 * WIDTH:.1f}"
    assert histogram(scores, np.zeros(4), kept).error == ""
    assert histogram(scores, np.full(4, 0.5), np.ones(4, bool)).error == ""
