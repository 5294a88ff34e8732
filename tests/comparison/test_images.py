"""Which images rank, and which judge."""

from __future__ import annotations

import pytest
import torch

from graphprune.comparison import arrange
from graphprune.data import CalibrationBatches, as_batches
from graphprune.errors import DataError, OptionError


def numbered(first: int, last: int) -> CalibrationBatches:
    """Images that say which they are, labelled with it."""
    numbers = torch.arange(first, last)
    return as_batches((numbers[:, None].float(), numbers), batch_size=7)


def numbers(data: CalibrationBatches) -> list[int]:
    return [int(x) for batch in data for x in batch.inputs[0]]


def test_a_third_judges_and_never_ranks() -> None:
    found = arrange(numbered(0, 30))
    judging = set(numbers(found.judging))
    assert len(judging) == 10
    for seed in range(4):
        drawn = numbers(found.drawn(seed))
        assert len(set(drawn)) == len(drawn) == found.n_drawn == 15
        assert not judging & set(drawn)


def test_seeds_draw_other_images_and_equal_seeds_the_same() -> None:
    found, again = arrange(numbered(0, 30)), arrange(numbered(0, 30))
    assert numbers(found.judging) == numbers(again.judging)
    assert numbers(found.drawn(1)) == numbers(again.drawn(1)) != numbers(found.drawn(2))
    assert numbers(arrange(numbered(0, 30), seed=1).judging) != numbers(found.judging)


def test_labels_stay_with_their_images() -> None:
    found = arrange(numbered(0, 30))
    for part in (found.judging, found.drawn(0)):
        labels = [
            int(y) for batch in part for y in (batch.labels if batch.labels is not None else [])
        ]
        assert labels == numbers(part)


def test_images_that_also_judge_do_not_rank() -> None:
    found = arrange(numbered(0, 20), numbered(15, 40), n_drawn=15)
    assert numbers(found.drawn(0)) == list(range(15))
    assert found.notes == ("5 images of the data also judge; they are left out of ranking",)
    apart = arrange(numbered(0, 20), numbered(20, 40))
    assert apart.notes == ()
    assert apart.n_drawn == 15


def test_labels_are_hidden_from_criteria_alone() -> None:
    found = arrange(numbered(0, 30), labels=False)
    assert found.judging.has_labels
    assert not found.drawn(0).has_labels


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="all images that should rank are among those that judge"):
        arrange(numbered(3, 9), numbered(0, 20))
    with pytest.raises(OptionError, match="25 images cannot be drawn from 20"):
        arrange(numbered(0, 30), n_drawn=25)
    with pytest.raises(DataError):
        arrange(numbered(0, 1))
