"""Slopes of games are finite differences; ranks and inference mode change nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from graphprune.criteria import rank
from graphprune.data import CalibrationBatches
from graphprune.distributed import Ranks
from graphprune.errors import OptionError
from graphprune.game import evaluation
from graphprune.game.evaluation import Evaluator
from graphprune.game.games import GroupGame, HierarchicalGame, NetworkGame, SlopedGame
from graphprune.game.value import minus_kl
from graphprune.graph import DependencyGraph, trace
from tests.game.networks import FixedBatch, Tokens
from tests.game.test_evaluation import coalitions, double, images_for
from tests.game.test_packing import data_for
from tests.networks import NETWORKS
from tests.traced import traced

STEP = 1e-6

SLOPED = ["MLP", "Residual", "Concat", "GroupNorm", "PackedAttention", "WeightStandardisation"]


def networks(name: str) -> DependencyGraph:
    if name == "Tokens":
        return trace(double(Tokens()), (torch.randn(2, 6, dtype=torch.float64),))
    if name == "FixedBatch":
        return trace(double(FixedBatch()), (torch.randn(2, 6, dtype=torch.float64),))
    return traced(name)


def worth(game: GroupGame | NetworkGame, opened: Tensor) -> Tensor:
    """Return the worth of coalitions with half-open gates, (rows, n_images); not cached."""
    return game._evaluator.values(game._whole(opened), game._performance)


def assert_differences(game: GroupGame | NetworkGame, n_draws: int, every: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (n_draws, game.n_images, game.n_players)
    opened = 0.2 + 0.8 * torch.rand(shape, generator=generator, dtype=torch.float64)
    found = game.slopes(opened)
    assert (found.shape, found.dtype) == (shape, torch.float64)
    for draw in range(n_draws):
        for image in range(game.n_images):
            for player in range(0, game.n_players, every):
                nudge = torch.zeros(game.n_players, dtype=torch.float64)
                nudge[player] = STEP
                ends = torch.stack([opened[draw, image] + nudge, opened[draw, image] - nudge])
                up, down = worth(game, ends)[:, image].tolist()
                expected = (up - down) / (2 * STEP)
                slope = found[draw, image, player].item()
                assert slope == pytest.approx(expected, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("value", ["kl", "cross-entropy"])
@pytest.mark.parametrize("name", [*SLOPED, "Tokens", "FixedBatch"])
def test_slopes_are_finite_differences(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With own gates for every image, in several batches, also where images run one by one."""
    monkeypatch.setattr(evaluation, "MAX_BATCH", 2)
    graph = networks(name)
    data = images_for(graph, 3)
    group = graph.groups[-1]
    assert_differences(GroupGame(graph, group, data, value), 2, max(group.n_units // 2, 1))
    assert_differences(NetworkGame(graph, data, value), 1, max(graph.n_units // 3, 1))


@pytest.mark.parametrize("name", ["Tokens", "FixedBatch", "WeightStandardisation"])
def test_some_of_them_run_image_by_image(name: str) -> None:
    assert not NetworkGame(networks(name), images_for(networks(name), 3)).per_sample


def test_slopes_of_no_draws() -> None:
    graph = traced("MLP")
    game = NetworkGame(graph, data_for(graph, 3))
    assert game.slopes(torch.ones(0, 3, graph.n_units)).shape == (0, 3, graph.n_units)


@pytest.mark.parametrize("make", ["group", "network"])
def test_steps_have_no_slopes(make: str) -> None:
    graph = traced("MLP")
    data = data_for(graph, 3)
    game: SlopedGame = (
        GroupGame(graph, graph.groups[0], data, "accuracy")
        if make == "group"
        else NetworkGame(graph, data, "accuracy")
    )
    with pytest.raises(OptionError, match="'accuracy' changes in steps") as error:
        game.slopes(torch.ones(1, 3, game.n_players))
    assert "--value kl or cross-entropy" in str(error.value.hint)


# ---- ranks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pretended(Ranks):
    """All ranks in one process: every share is computed where it would be, one after the other."""

    shares: list[range] = field(default_factory=list)

    def gather(self, total: int, compute: Callable[[range], Tensor]) -> Tensor:
        shares = [self.share(total, place) for place in range(self.size)]
        self.shares.extend(shares)
        return torch.cat([compute(share) for share in shares if share] or [compute(range(0))])


def three() -> Pretended:
    return Pretended(rank=0, size=3)


@pytest.mark.parametrize("n_images", [1, 3, 7])
def test_values_of_three_ranks_are_those_of_one(
    n_images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: whole passes are shared, so that a coalition has the same company."""
    monkeypatch.setattr(evaluation, "MAX_BATCH", 9)
    for name in ("Residual", "PackedAttention"):
        graph = traced(name)
        data, kept = data_for(graph, n_images), coalitions(graph, 17).unique(dim=0)
        ranks = three()
        alone, shared = NetworkGame(graph, data), NetworkGame(graph, data, ranks=ranks)
        assert (alone.together > 1) == (name == "Residual" and n_images < 7)
        for rows in (kept[:1], kept[:7], kept):
            assert torch.equal(alone.values(rows), shared.values(rows))
        assert alone.evaluations == shared.evaluations == len(kept)
        # Passes are shared, none twice.
        fresh = (1, 6, len(kept) - 7)
        passes = sum(-(-count // alone.together) for count in fresh)
        assert sum(map(len, ranks.shares)) == passes


def test_slopes_of_three_ranks_are_those_of_one() -> None:
    graph = traced("Residual")
    data = data_for(graph, 4)
    ranks = three()
    for n_draws in (1, 2, 5):
        opened = torch.rand(n_draws, 4, 6, dtype=torch.float64)
        group = graph.group("a.0.weight")
        alone = GroupGame(graph, group, data).slopes(opened)
        del ranks.shares[:]
        shared = GroupGame(graph, group, data, ranks=ranks).slopes(opened)
        assert torch.equal(alone, shared)
        assert [draw for share in ranks.shares for draw in share] == list(range(n_draws))


# ---- modes of the caller ------------------------------------------------------------------------


def both_orders(graph: DependencyGraph, data: CalibrationBatches) -> list[tuple[Tensor, Tensor]]:
    """Values first, in inference mode, then gradients; and the other way round."""
    kept = coalitions(graph, 3)
    opened = torch.rand(data.n_images, graph.n_units, generator=torch.Generator().manual_seed(0))
    found = []
    for values_first in (True, False):
        evaluator = Evaluator(graph, data)
        values = evaluator.values(kept, minus_kl) if values_first else None
        gradients = evaluator.gradients(
            0, opened, minus_kl, torch.Generator().manual_seed(1), n_draws=1
        )
        values = evaluator.values(kept, minus_kl) if values is None else values
        assert not evaluator.reference(0).is_inference()
        found.append((values, torch.stack([gradients.slope, gradients.score])))
    return found


@pytest.mark.parametrize("name", ["Residual", "PackedAttention", "Tokens", "FixedBatch"])
def test_values_and_gradients_in_any_order(name: str) -> None:
    graph = networks(name)
    one, other = both_orders(graph, images_for(graph, 2))
    for found, again in zip(one, other, strict=True):
        assert torch.equal(found, again)


def product(logits: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
    """A value whose derivative needs the reference itself."""
    return (logits * reference).sum((1, 2))


def test_values_of_the_users_own_in_any_order() -> None:
    graph = traced("Residual")
    evaluator = Evaluator(graph, data_for(graph, 3))
    evaluator.values(coalitions(graph, 2), product)
    opened = torch.ones(3, graph.n_units)
    found = evaluator.gradients(0, opened, product, torch.Generator(), n_draws=0)
    fresh = Evaluator(graph, data_for(graph, 3))
    again = fresh.gradients(0, opened, product, torch.Generator(), n_draws=0)
    assert torch.equal(found.slope, again.slope)


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 6},
        {"game": "group", "estimator": "owen"},
        {"criterion": "taylor"},
        {"criterion": "fisher"},
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_the_callers_mode_changes_no_ranking(mode: str, options: dict[str, object]) -> None:
    graph = traced("MLP")
    data = data_for(graph, 4)
    expected = rank(graph, data, **options)  # type: ignore[arg-type]
    entered: AbstractContextManager[object] = MODES[mode]()  # type: ignore[operator]
    with entered:
        found = rank(graph, data, **options)  # type: ignore[arg-type]
    assert (expected.scores != 0).any()
    np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("game", ["group", "network", "hierarchical"])
def test_the_callers_model_and_random_state_stay(game: str) -> None:
    model = NETWORKS["Residual"].make()
    model.train()
    model.stem[0].weight.requires_grad_(False)
    graph = trace(model, NETWORKS["Residual"].inputs())
    data = data_for(graph, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    played: dict[str, Callable[[], GroupGame | NetworkGame]] = {
        "group": lambda: GroupGame(graph, graph.groups[0], data),
        "network": lambda: NetworkGame(graph, data),
        "hierarchical": lambda: HierarchicalGame(graph, data),
    }
    playing = played[game]()
    playing.values(torch.ones(2, playing.n_players, dtype=torch.bool))
    playing.slopes(torch.rand(1, 3, playing.n_players, generator=torch.Generator()))
    playing.precision_error()
    assert model.training
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert asked == {name: p.requires_grad for name, p in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
