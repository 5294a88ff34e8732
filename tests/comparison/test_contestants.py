"""Who takes part in a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphprune.comparison import contestants
from graphprune.criteria import RankRequest
from graphprune.errors import OptionError
from graphprune.game.games import DEFAULT_BAND


def labels(*given: str, floor: bool = True) -> list[str]:
    return [each.label for each in contestants(given, floor=floor)]


def test_the_floor_takes_part_once() -> None:
    assert labels("taylor") == ["taylor", "random"]
    assert labels("random", "taylor") == ["random", "taylor"]
    assert labels("taylor", floor=False) == ["taylor"]


def test_settings_of_one_criterion() -> None:
    (found,) = contestants(
        ["shapley@game=group@budget=50@semivalue=upper-shapley:0.7"], floor=False
    )
    assert (found.criterion, found.game, found.budget) == ("shapley", "group", 50)
    assert (found.semivalue, found.estimator, found.source) == ("upper-shapley:0.7", "auto", "")
    assert labels("shapley", "shapley@game=group", floor=False) == ["shapley", "shapley@game=group"]


def test_what_a_ranking_is_made_for_can_be_set() -> None:
    (found, default) = contestants(
        ["shapley@for-ratio=0.3@for-repair=least-squares@exchange=no", "shapley"], floor=False
    )
    assert (found.exchange, default.exchange) == (False, True)
    assert (found.for_ratio, found.for_repair) == (0.3, "least-squares")
    assert (default.for_ratio, default.for_repair) == (DEFAULT_BAND, "auto")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["tailor"], "criterion 'tailor' is none of"),
        (["taylor", "l2", "taylor"], "criterion 'taylor' is named twice"),
        ([], "no criteria to compare"),
        (["shapley@games=group"], "'games=group' is no setting; allowed are game, estimator"),
        (["shapley@game"], "'game' is no setting"),
        (["shapley@budget=many"], "budget is a whole number, not 'many'"),
        (["shapley@for-ratio=half"], "for-ratio is a number, not 'half'"),
        (["shapley@exchange=maybe"], "exchange is yes or no, not 'maybe'"),
    ],
)
def test_what_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        contestants(given, floor=True)


def own(request: RankRequest) -> torch.Tensor:
    return torch.arange(request.graph.n_units).double()


def test_functions_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def mine(request):\n    return None\n")
    first, second = contestants([own, f"{file}:mine"], floor=False)
    assert first.label.endswith("own")
    assert first.source
    assert second.source not in ("", first.source)
