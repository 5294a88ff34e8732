"""From per-image values to scores."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.errors import OptionError
from graphprune.estimators import AGGREGATES, ShapleyEstimate, aggregate, scores_of

PER_IMAGE = np.array([[1.0, -2.0], [-1.0, -2.0], [3.0, -2.0]])


def test_by_hand() -> None:
    np.testing.assert_allclose(aggregate(PER_IMAGE, "mean")[0], [1, -2])
    np.testing.assert_allclose(aggregate(PER_IMAGE, "magnitude")[0], [5 / 3, 2])
    np.testing.assert_allclose(aggregate(PER_IMAGE, "mean+2std")[0], [1 + 2 * 2, -2])
    np.testing.assert_allclose(aggregate(PER_IMAGE, "mean")[1], [2 / np.sqrt(3), 0])


@pytest.mark.parametrize("how", AGGREGATES)
def test_standard_errors_are_those_of_other_images(how: str) -> None:
    rng = np.random.default_rng(0)
    found = [aggregate(rng.normal(0.3, 1.0, (100, 8)), how) for _ in range(200)]
    scatter = np.std([scores for scores, _ in found])
    claimed = np.sqrt(np.mean([stderr**2 for _, stderr in found]))
    assert 0.9 < scatter / claimed < 1.1


@pytest.mark.parametrize("how", AGGREGATES)
def test_one_image_has_no_spread(how: str) -> None:
    scores, stderr = aggregate(np.array([[1.0, -2.0]]), how)
    np.testing.assert_allclose(np.abs(scores), [1, 2])
    np.testing.assert_allclose(stderr, 0)


def test_errors_of_shared_coalitions_are_added() -> None:
    shared = ShapleyEstimate(PER_IMAGE, np.array([3.0, 4.0]), 10)
    own = ShapleyEstimate(PER_IMAGE, np.array([3.0, 4.0]), 10, own_coalitions=True)
    _, over_images = aggregate(PER_IMAGE, "mean")
    np.testing.assert_allclose(scores_of(own, "mean")[1], over_images)
    np.testing.assert_allclose(scores_of(shared, "mean")[1], np.hypot(over_images, [3, 4]))


def test_an_unknown_aggregate_is_refused() -> None:
    with pytest.raises(OptionError, match="aggregate 'median' is none of magnitude, mean, mean"):
        aggregate(PER_IMAGE, "median")
