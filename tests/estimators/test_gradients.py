"""Gate gradients: against closed forms, leave-one-out values and repeated draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphprune.data import as_batches
from graphprune.errors import BudgetError, OptionError
from graphprune.estimators.gradients import GradientEstimator
from graphprune.estimators.removal import removal_orders
from graphprune.game import evaluation
from graphprune.game.games import DEFAULT_BAND, NetworkGame
from graphprune.graph import DependencyGraph, trace
from tests.game.networks import Gaussian
from tests.helpers import batch_of
from tests.networks import NETWORKS
from tests.traced import traced


def game_on(
    name: str, n_images: int = 6, value: str = "kl", band: float = DEFAULT_BAND
) -> NetworkGame:
    graph = traced(name)
    (x,) = batch_of(graph.example_inputs, n_images, 0)
    return NetworkGame(graph, as_batches((x, torch.arange(n_images) % 3)), value, band=band)


def leave_one_out(game: NetworkGame) -> np.ndarray:
    """v(N) - v(N - i) per image, (images, units)."""
    rows = ~torch.eye(game.n_players, dtype=torch.bool)
    return (
        (game.values(torch.ones(1, game.n_players, dtype=torch.bool)) - game.values(rows)).numpy().T
    )


def gaussian(scale: float) -> tuple[DependencyGraph, torch.Tensor]:
    model = Gaussian(scale=scale).double().eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    return trace(model, (x[:2],)), x


def test_values_of_a_linear_network_are_half_its_squared_contributions() -> None:
    """v(S) = -1/2 (sum of the absent a_i)^2 with a = w h: near the grand coalition 1/2 a_i^2."""
    graph, x = gaussian(scale=0.3)
    state = dict(graph.program.module.named_parameters())
    hidden = x @ state["one.weight"].T + state["one.bias"]
    contributions = (hidden * state["two.weight"][0]).detach().numpy()
    # A band that removes nothing: every coalition is the grand coalition.
    game = NetworkGame(graph, as_batches((x,)), "kl", band=1e-9)
    np.testing.assert_allclose(leave_one_out(game), contributions**2 / 2, atol=1e-12)
    estimate = GradientEstimator(budget=400).estimate(game)
    truth = contributions**2 / 2
    # Every draw is a chi-squared with one degree of freedom: its deviation is sqrt(2) means.
    np.testing.assert_allclose(estimate.per_image, truth, atol=5 * truth.max() * (2 / 400) ** 0.5)
    assert np.corrcoef(estimate.values, truth.mean(0))[0, 1] > 0.99


def test_marginals_are_those_of_present_units_at_the_coalitions_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With d = sum of the absent a_j: slope d a_i, and 1/2 (1 + d^2) a_i^2 from the curvature."""
    graph, x = gaussian(scale=0.5)
    state = dict(graph.program.module.named_parameters())
    hidden = x @ state["one.weight"].T + state["one.bias"]
    a = (hidden * state["two.weight"][0]).detach().numpy()
    game = NetworkGame(graph, as_batches((x,)), "kl", band=0.6)
    drawn: list[np.ndarray] = []

    def watched(
        batch: int, kept: torch.Tensor, generator: torch.Generator, n_draws: int
    ) -> evaluation.GateGradients:
        if n_draws == 1:
            drawn.append(kept.double().numpy())
        return NetworkGame.gradients(game, batch, kept, generator, n_draws)

    monkeypatch.setattr(game, "gradients", watched)
    estimate = GradientEstimator(budget=1000).estimate(game)
    total, spread = np.zeros_like(a), np.zeros_like(a)
    for kept in drawn:
        absent = ((1 - kept) * a).sum(1, keepdims=True)
        total += (absent * a + (1 + absent**2) * a**2 / 2) * kept
        spread += (1 + 4 * absent**2) * a**4 / 2 * kept
    often = np.sum(drawn, axis=(0, 1)) / len(a)
    assert len(drawn) == 1000
    assert often.min() < 900
    assert (np.abs(estimate.per_image - total / often) < 6 * np.sqrt(spread) / often).all()


@pytest.mark.parametrize("name", ["Residual", "PaddedShortcut", "GroupNorm", "PackedAttention"])
def test_near_the_whole_network_marginals_are_leave_one_out_values(name: str) -> None:
    game = game_on(name, band=1e-9)
    estimate = GradientEstimator(budget=100).estimate(game)
    expected = leave_one_out(game).mean(0)
    assert np.corrcoef(estimate.values, expected)[0, 1] > 0.9
    assert 0.5 < estimate.values.sum() / expected.sum() < 2


def test_units_that_nothing_reads_are_worth_nothing() -> None:
    model = NETWORKS["Residual"].make()
    with torch.no_grad():
        model.b.weight[:, [1, 4]] = 0
    graph = trace(model, NETWORKS["Residual"].inputs())
    game = NetworkGame(graph, as_batches(batch_of(graph.example_inputs, 6, 0)), "kl")
    estimate = GradientEstimator().estimate(game)
    dead = graph.group("a.0.weight").first + np.array([1, 4])
    assert (estimate.per_image[:, dead] == 0).all()
    others = np.delete(np.abs(estimate.per_image).mean(0), dead)
    assert (others > 0).mean() > 0.9


def test_units_with_larger_weights_are_worth_more() -> None:
    model = Gaussian(width=8, scale=0.1).double().eval()
    with torch.no_grad():
        model.one.weight.fill_(0.2)
        model.one.bias.fill_(0)
        model.two.weight.copy_(0.02 * torch.arange(1, 9)[None])
    x = torch.randn(64, 4, dtype=torch.float64)
    graph = trace(model, (x[:2],))
    game = NetworkGame(graph, as_batches((x,)), "kl", band=0.2)
    estimate = GradientEstimator().estimate(game)
    scores = np.abs(estimate.per_image).mean(0)
    assert (np.argsort(scores)[[0, 1, -2, -1]] == [0, 1, 6, 7]).all()
    assert np.corrcoef(scores, np.arange(8))[0, 1] > 0.9


def test_equal_seeds_give_equal_estimates_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "MAX_BATCH", 4)
    games = [game_on("Residual") for _ in range(3)]
    state = torch.get_rng_state()
    first, second = (GradientEstimator(seed=3).estimate(game) for game in games[:2])
    other = GradientEstimator(seed=4).estimate(games[2])
    np.testing.assert_array_equal(first.per_image, second.per_image)
    assert (first.per_image != other.per_image).any()
    assert torch.equal(state, torch.get_rng_state())


def test_standard_errors_cover_repeated_estimates() -> None:
    game = game_on("MLP", n_images=40)
    runs = [GradientEstimator(budget=4, seed=seed).estimate(game) for seed in range(30)]
    scatter = np.var([run.values for run in runs], axis=0, ddof=1).mean()
    claimed = np.mean([run.stderr**2 for run in runs])
    assert runs[0].own_coalitions
    # Its two rounds draw from different orders: the error may look larger than it is.
    assert 0.6 < claimed / scatter < 3


@pytest.mark.parametrize(
    ("n_images", "macs", "expected"),
    [
        (1, 10**6, 16),
        (256, 10**6, 16),
        (512, 10**6, 8),
        (4096, 10**6, 2),
        (10**6, 10**6, 2),
        (64, 2 * 10**9, 15),  # a ResNet-18
        (256, 2 * 10**9, 3),
        (256, 0, 16),
    ],
)
def test_the_default_budget_is_bounded(n_images: int, macs: int, expected: int) -> None:
    assert GradientEstimator().n_coalitions(n_images, macs) == expected
    assert GradientEstimator(budget=5).n_coalitions(n_images, macs) == 5


def test_budget_and_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MAX_BATCH", 4)
    seen: list[tuple[str, int, int]] = []
    estimate = GradientEstimator(budget=3).estimate(
        game_on("MLP"), lambda stage, done, total: seen.append((stage, done, total))
    )
    assert estimate.evaluations == 4
    # Two batches; the start scores, one coalition in the first round and two in the second.
    assert seen == [("gate gradients", done, 8) for done in range(1, 9)]


@pytest.mark.parametrize("budget", [0, 1])
def test_a_budget_for_less_than_two_rounds_is_refused(budget: int) -> None:
    with pytest.raises(BudgetError, match=f"{budget} coalitions per image do not pay") as error:
        GradientEstimator(budget=budget).estimate(game_on("MLP"))
    assert "--budget 2" in str(error.value)


def test_steps_are_refused() -> None:
    with pytest.raises(OptionError, match="'accuracy' changes in steps"):
        GradientEstimator().estimate(game_on("MLP", value="accuracy"))


# ---- coalitions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("band", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", ["Residual", "PaddedShortcut", "Dense"])
def test_coalitions_fill_the_band_and_empty_no_axis(name: str, band: float) -> None:
    game = game_on(name)
    orders = removal_orders(np.random.default_rng(0).uniform(0.5, 1, game.n_players), game)
    kept = orders.draw(300, band, torch.Generator().manual_seed(0)).numpy()
    for needed in game.needed:
        assert kept[:, needed].any(1).all()
    removed = np.array([game.removed_macs(row) for row in kept])
    assert removed.max() < band + 0.1
    assert removed.max() > band / 2
    assert abs(removed.mean() - band / 2) < 0.15
    assert len(np.unique(kept, axis=0)) > 10


def test_weak_and_costly_units_go_first() -> None:
    game = game_on("PaddedShortcut")
    scores = np.ones(game.n_players)
    weak = np.arange(0, game.n_players, 3)
    scores[weak] = 1e-3
    kept = (
        removal_orders(scores, game)
        .draw(300, 0.5, torch.Generator().manual_seed(0))
        .double()
        .mean(0)
    )
    assert kept[weak].mean() < 0.9
    assert np.delete(kept.numpy(), weak).min() > 0.99
    even = removal_orders(np.ones(game.n_players), game)
    cheap = np.argsort(game.macs)
    kept = even.draw(500, 0.5, torch.Generator().manual_seed(0)).double().mean(0).numpy()
    assert kept[cheap[:5]].mean() > kept[cheap[-5:]].mean()
