"""Memory and precision: bounds hold, nothing is computed twice, values stay what they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphprune.criteria import rank
from graphprune.data import as_batches
from graphprune.errors import OptionError
from graphprune.game import evaluation
from graphprune.game.evaluation import Evaluator, Running
from graphprune.game.games import GroupGame, NetworkGame
from graphprune.game.value import minus_kl
from graphprune.graph import DependencyGraph, trace
from tests.game.test_evaluation import coalitions, images_for
from tests.game.test_packing import NEAR, data_for, players_of
from tests.networks import NETWORKS
from tests.traced import traced

TINY = 1
"""Bytes of memory that hold nothing."""


def counted(evaluator: Evaluator) -> list[int]:
    """Return a list that grows by a batch size at every run of the prefix."""
    runs: list[int] = []
    evaluator._split.prefix.register_forward_pre_hook(lambda _, given: runs.append(len(given[0])))
    return runs


def kept_bytes(evaluator: Evaluator) -> int:
    """Return what borders hold: of a view all that it looks at."""
    kept = [x for border in evaluator._borders._kept.values() for x in border]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
    return sum(storages.values())


# ---- what no coalition changes ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Residual", "PackedAttention", "UNet"])
def test_tiny_memory_changes_no_value(name: str) -> None:
    graph = traced(name)
    data, kept = data_for(graph, 5), coalitions(graph, 3)
    players = players_of(graph, graph.groups[-1].name)
    kept |= ~torch.from_numpy(players)
    usual, tiny = (
        Evaluator(graph, data, players, running)
        for running in (Running(), Running(max_memory=TINY))
    )
    assert [batch.n_images for batch in tiny.batches] == [1] * 5
    torch.testing.assert_close(tiny.values(kept, minus_kl), usual.values(kept, minus_kl), **NEAR)
    opened = torch.rand(5, graph.n_units, dtype=torch.float64)
    rows = [
        tiny.gradients(k, opened[k : k + 1], minus_kl, torch.Generator(), 0).slope for k in range(5)
    ]
    whole = usual.gradients(0, opened, minus_kl, torch.Generator(), 0).slope
    torch.testing.assert_close(torch.cat(rows)[:, players], whole[:, players], **NEAR)
    assert kept_bytes(tiny) == 0 < kept_bytes(usual)


def test_borders_that_fit_are_computed_once() -> None:
    graph = traced("Residual")
    evaluator = Evaluator(graph, data_for(graph, 5), players_of(graph, "a.0.weight"))
    runs = counted(evaluator)
    for _ in range(3):
        evaluator.values(coalitions(graph, 2), minus_kl)
        opened = torch.ones(5, graph.n_units)
        evaluator.gradients(0, opened, minus_kl, torch.Generator(), 0)
    assert runs == [5]


def test_borders_that_do_not_fit_are_computed_once_a_call() -> None:
    graph = traced("Residual")
    evaluator = Evaluator(
        graph, data_for(graph, 3), players_of(graph, "a.0.weight"), Running(max_memory=TINY)
    )
    runs = counted(evaluator)
    for number in range(3):
        evaluator.reference(number)
    assert runs == [2, 2, 2]  # filled up
    evaluator.values(coalitions(graph, 4), minus_kl)
    assert runs == [2] * 6


@pytest.mark.parametrize("name", ["Residual", "MLP", "Concat"])
def test_what_is_kept_takes_half_of_the_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some batches' borders fit, others are computed anew; all give the same."""
    graph = traced(name)
    monkeypatch.setattr(evaluation, "MAX_BATCH", 2)
    data, kept = data_for(graph, 8), coalitions(graph, 2)
    players = players_of(graph, graph.groups[-1].name)
    usual = Evaluator(graph, data, players)
    expected = usual.values(kept, minus_kl)
    each = kept_bytes(usual) // 4
    memory = max(5 * each, 4 * evaluation.passes_of(graph))
    monkeypatch.setattr(evaluation, "passes_of", lambda *_: 2)
    evaluator = Evaluator(graph, data, players, Running(max_memory=memory))
    runs = counted(evaluator)
    torch.testing.assert_close(evaluator.values(kept, minus_kl), expected, **NEAR)
    evaluator.values(kept, minus_kl)
    assert 0 < kept_bytes(evaluator) <= memory // 2
    assert len(evaluator._borders._kept) == 2
    # Four batches, one by one; then the two that did not fit, for their references and again.
    assert len(runs) == 4 + 2 + 2


class FirstToken(nn.Module):
    """What the last group reads is a small view of something large."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).tanh()[:, 0])


def test_views_count_for_all_that_they_keep() -> None:
    graph = trace(FirstToken().double().eval(), (torch.randn(2, 50, 4, dtype=torch.float64),))
    players = players_of(graph, "up.weight")
    data = as_batches([(torch.randn(6, 50, 4, dtype=torch.float64),)])
    roomy = Evaluator(graph, data, players)
    roomy.reference(0)
    held, seen = kept_bytes(roomy), sum(x.nbytes for x in roomy._borders.get(0) or ())
    assert held > 10 * seen
    borders = evaluation._Borders(held - 1)
    borders.add(0, roomy._borders.get(0) or ())
    assert borders.get(0) is None


# ---- coalitions ---------------------------------------------------------------------------------


def rows_asked(game: GroupGame) -> list[Tensor]:
    """Return a list that grows by what the evaluator is asked."""
    asked: list[Tensor] = []
    values = game._evaluator.values

    def watched(coalitions: Tensor, performance: object) -> Tensor:
        asked.append(coalitions.clone())
        return values(coalitions, performance)

    game._evaluator.values = watched  # type: ignore[method-assign]
    return asked


def test_no_coalition_is_evaluated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced("Residual")
    monkeypatch.setattr(evaluation, "MAX_BATCH", 5)
    group = graph.group("a.0.weight")
    game = GroupGame(graph, group, data_for(graph, 5))
    asked = rows_asked(game)
    kept = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    first = game.values(kept[:4])
    again = game.values(kept[[3, 4, 3, 0, 5, 4]])
    assert torch.equal(again[0], first[3])
    assert torch.equal(again[3], first[0])
    assert torch.equal(again[1], again[5])
    rows = torch.cat(asked)
    assert len(rows) == len(rows.unique(dim=0)) == game.evaluations == 6
    fresh = GroupGame(graph, group, data_for(graph, 5)).values(kept)
    torch.testing.assert_close(fresh, torch.cat([first, again[[1, 4]]]), **NEAR)


def test_what_is_filled_up_counts_for_nothing() -> None:
    graph = traced("Residual")
    game = GroupGame(graph, graph.group("a.0.weight"), data_for(graph, 3))
    assert game.together > 1
    game.values(torch.ones(1, 6, dtype=torch.bool))
    assert game.evaluations == 1


def test_a_coalition_that_is_known_is_the_callers_to_change() -> None:
    graph = traced("MLP")
    game = NetworkGame(graph, data_for(graph, 3))
    kept = coalitions(graph, 1)
    before = game.values(kept).clone()
    game.values(kept).zero_()
    assert torch.equal(game.values(kept), before)


def test_known_coalitions_are_bounded() -> None:
    graph = traced("MLP")
    data = data_for(graph, 4)
    kept = coalitions(graph, 12).unique(dim=0)
    usual = NetworkGame(graph, data)
    # An eighth of the memory: three coalitions of four images.
    running = Running(max_memory=8 * (3 * 4 * 8 + 1))
    bounded = NetworkGame(graph, data, running=running)
    torch.testing.assert_close(bounded.values(kept), usual.values(kept), **NEAR)
    assert len(bounded._known._rows) == 3
    assert sum(row.untyped_storage().nbytes() for row in bounded._known._rows.values()) == 3 * 32
    bounded.values(kept)
    assert bounded.evaluations == len(kept) + len(kept) - 3
    assert usual.evaluations == len(kept)


def test_a_ranking_in_tiny_memory_is_the_same() -> None:
    graph = traced("Residual")
    data = data_for(graph, 4)
    for options in ({"budget": 4}, {"game": "group", "estimator": "antithetic"}):
        usual = rank(graph, data, **options)
        tiny = rank(graph, data, running=Running(max_memory=TINY), **options)
        # The whole-network game cuts its draws into batches, so only the group game is equal.
        if "game" in options:
            np.testing.assert_allclose(tiny.scores, usual.scores, rtol=1e-9, atol=1e-12)
        assert np.isfinite(tiny.scores).all()


def test_memory_that_holds_nothing() -> None:
    with pytest.raises(OptionError, match="0 bytes of memory hold nothing"):
        rank(traced("MLP"), running=Running(max_memory=0))


# ---- precision ----------------------------------------------------------------------------------


def single(name: str) -> DependencyGraph:
    network = NETWORKS[name]
    return trace(network.make().float(), tuple(x.float() for x in network.inputs()))


LOWERED = Running(precision="bfloat16")


@pytest.mark.parametrize("name", ["Residual", "PackedAttention", "SqueezeExcite", "GRN"])
def test_lower_precision_is_close_and_its_error_measured(name: str) -> None:
    graph = single(name)
    data = images_for(graph, 6)
    exact, lowered = (NetworkGame(graph, data, running=running) for running in (Running(), LOWERED))
    generator = torch.Generator().manual_seed(3)
    shares = 0.5 + 0.5 * torch.rand(40, 1, generator=generator)
    kept = torch.rand(40, graph.n_units, generator=generator) < shares
    one, other = exact.values(kept).mean(1), lowered.values(kept).mean(1)
    assert not torch.equal(one, other)
    actual = float((one - other).square().mean().sqrt() / one.std())
    assert 0 < actual < 0.2
    claimed = lowered.precision_error()
    assert actual / 3 < claimed < 3 * actual
    assert exact.precision_error() == 0
    # It is not counted among the evaluations of the game.
    assert lowered.evaluations == len(kept.unique(dim=0))


def test_lower_precision_has_slopes() -> None:
    graph = single("Residual")
    data = images_for(graph, 4)
    opened = torch.rand(2, 4, graph.n_units, generator=torch.Generator().manual_seed(0))
    exact, lowered = (
        NetworkGame(graph, data, running=running).slopes(opened) for running in (Running(), LOWERED)
    )
    assert lowered.dtype == torch.float64
    assert not torch.equal(exact, lowered)
    assert (exact - lowered).norm() < 0.1 * exact.norm()


def test_double_precision_is_not_lowered() -> None:
    graph = traced("Residual")
    data, kept = data_for(graph, 4), coalitions(graph, 3)
    exact, lowered = (NetworkGame(graph, data, running=running) for running in (Running(), LOWERED))
    assert torch.equal(exact.values(kept), lowered.values(kept))
    assert lowered.precision_error() == 0
    opened = torch.rand(1, 4, graph.n_units, dtype=torch.float64)
    assert torch.equal(exact.slopes(opened), lowered.slopes(opened))


def test_units_that_nothing_depends_on_have_no_precision_error() -> None:
    """The worth of all coalitions is the same, so that it has no spread."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        model[2].weight.zero_()
    graph = trace(model, (torch.randn(2, 4),))
    game = NetworkGame(graph, as_batches([(torch.randn(4, 4),)]), running=LOWERED)
    assert game.precision_error() == 0


@pytest.mark.parametrize("game", ["group", "network"])
def test_a_ranking_says_what_lower_precision_costs(game: str) -> None:
    graph = single("Residual")
    data = images_for(graph, 4)
    ranking = rank(graph, data, game=game, estimator="permutation", running=LOWERED)
    (note,) = ranking.notes
    assert note.startswith("in bfloat16 the worth of a coalition is off by 0.0")
    assert note.endswith(" of its spread")
    assert rank(graph, data, game=game, estimator="permutation").notes == ()


def test_unknown_precision() -> None:
    with pytest.raises(OptionError, match="precision 'float8' is none of float32, bfloat16"):
        rank(traced("MLP"), running=Running(precision="float8"))
