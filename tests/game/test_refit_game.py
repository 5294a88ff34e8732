"""The refit game: closed-form worth and marginals, against layers refitted for real."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphprune.data import as_batches
from graphprune.game.evaluation import Evaluator
from graphprune.game.moments import portions, refit_bytes
from graphprune.game.readers import readers_of
from graphprune.game.refit_game import RefitGame
from graphprune.graph import DependencyGraph, trace
from tests.game.test_evaluation import ONE_INPUT
from tests.helpers import batch_of, random_kept, randomize
from tests.traced import traced


def game_of(graph: DependencyGraph, n_images: int = 12) -> RefitGame:
    data = as_batches([batch_of(graph.example_inputs, n_images, 0)])
    return RefitGame(Evaluator(graph, data), seed=0)


def chain_of(graph: DependencyGraph, length: int, seed: int = 0) -> Tensor:
    """Return coalitions of which each lacks more than the one before."""
    order = np.random.default_rng(seed).permutation(graph.n_units)
    chain = np.ones((length, graph.n_units), bool)
    for place, count in enumerate(np.linspace(0, 0.7 * graph.n_units, length).astype(int)):
        chain[place, order[:count]] = False
    return torch.from_numpy(chain)


@pytest.mark.parametrize("name", ONE_INPUT)
def test_marginals_are_differences_of_worth(name: str) -> None:
    graph = traced(name)
    game = game_of(graph)
    chains = [chain_of(graph, 3, seed) for seed in range(2)]
    found = game.marginals(chains)
    for kept, row in zip(torch.cat(chains), found, strict=True):
        present = kept.nonzero()[:, 0]
        without = kept.expand(len(present), -1).clone()
        without[torch.arange(len(present)), present] = False
        expected = game.values(kept[None]) - game.values(without)
        scale = max(float(np.abs(expected).max(initial=0.0)), 1e-9)
        np.testing.assert_allclose(row[present], expected, rtol=1e-6, atol=1e-6 * scale)
        assert not row[~kept.numpy()].any()


class Two(nn.Module):
    """A layer that reads units and makes others, and a head that reads those."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu())


@pytest.fixture
def two() -> tuple[Two, DependencyGraph, Tensor]:
    model = randomize(Two()).double().eval()
    x = torch.randn(400, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return model, trace(model, (x[:2],)), x


def slopes_of(model: Two, x: Tensor, seed: int) -> list[Tensor]:
    """Return root mean squares of the likelihood's slope in what each layer makes."""
    made = [model.second(model.first(x).relu())]
    made.append(model.head(made[0].relu()))
    logits = made[1]
    drawn = torch.multinomial(
        logits.softmax(1).detach(),
        400,
        replacement=True,
        generator=torch.Generator().manual_seed(seed),
    )
    likelihood = logits.log_softmax(1).gather(1, drawn)
    squares = [torch.zeros(y.shape[1]).double() for y in made]
    for column in likelihood.T:
        found = torch.autograd.grad(column.sum(), made, retain_graph=True)
        squares = [
            total + slope.square().mean(0) / likelihood.shape[1]
            for total, slope in zip(squares, found, strict=True)
        ]
    return [total.sqrt() for total in squares]


def test_worth_is_minus_half_the_error_of_layers_refitted_for_real(two) -> None:
    model, graph, x = two
    game = RefitGame(Evaluator(graph, as_batches((x,))), seed=0)
    kept = torch.ones(graph.n_units, dtype=torch.bool)
    first, second = (graph.group(f"{name}.weight") for name in ("first", "second"))
    kept[first.first + torch.tensor([0, 3])] = False
    kept[second.first + torch.tensor([1])] = False
    with torch.no_grad():
        read = [model.first(x).relu(), model.second(model.first(x).relu()).relu()]
        layers = [model.second, model.head]
        errors = []
        for u, layer, group in zip(read, layers, (first, second), strict=True):
            present = kept[group.span]
            rows = torch.cat([u[:, present], torch.ones(len(u), 1).double()], 1)
            y = layer(u)
            fitted = rows @ torch.linalg.lstsq(rows, y).solution
            errors.append((fitted - y).square().mean(0))
    errors[0] = errors[0][kept[second.span]]
    slopes = slopes_of(model, x, 0)
    slopes[0] = slopes[0][kept[second.span]]
    expected = -0.5 * sum(float((s * e).sum()) for s, e in zip(slopes, errors, strict=True))
    (found,) = game.values(kept[None])
    # Slopes are of predictions drawn once per image, and moments have a ridge of a thousandth.
    assert found == pytest.approx(expected, rel=0.05)


def test_a_unit_matters_less_the_fewer_readers_are_left(two) -> None:
    _, graph, x = two
    game = RefitGame(Evaluator(graph, as_batches((x,))), seed=0)
    whole = graph.all_kept()
    fewer = whole.copy()
    second = graph.group("second.weight")
    fewer[second.first : second.first + 4] = False
    chain = torch.from_numpy(np.stack([whole, fewer]))
    before, after = game.marginals([chain])
    first = graph.group("first.weight")
    assert (after[first.span] < before[first.span]).all()


def test_a_depthwise_layer_is_no_reason_to_keep_a_channel() -> None:
    """What a channel's own filter would lack goes with the channel."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.Conv2d(6, 6, 3, groups=6, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 4, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    x = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    model = randomize(model).double().eval()
    with torch.no_grad():
        model[3].weight[:, 2] = 0  # nobody reads channel 2 but its own filter
    graph = trace(model, (x[:2],))
    (found,) = RefitGame(Evaluator(graph, as_batches((x,))), seed=0).marginals(
        [torch.from_numpy(graph.all_kept())[None]]
    )
    group = graph.groups[0]
    assert found[group.first + 2] == pytest.approx(0, abs=1e-12)
    assert (np.delete(found[group.span], 2) > 1e-6).all()


def test_chains_make_no_difference_to_each_other() -> None:
    graph = traced("Residual")
    game = game_of(graph)
    chain = chain_of(graph, 4)
    together = game.marginals([chain])
    alone = game.marginals([row[None] for row in chain])
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-9)
    assert game.marginals([]).shape == (0, graph.n_units)


def test_layers_that_are_looked_at_in_portions_are_worth_the_same() -> None:
    graph = traced("Residual")
    data = as_batches([batch_of(graph.example_inputs, 12, 0)])
    chains = [chain_of(graph, 3, seed) for seed in range(2)]
    whole = RefitGame(Evaluator(graph, data), seed=0)
    parts = RefitGame(Evaluator(graph, data), seed=0, max_bytes=1)
    assert len(whole.readers) > 2
    for found, expected in zip(parts.values_along(chains), whole.values_along(chains), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    kept = torch.cat(chains)
    np.testing.assert_allclose(parts.values(kept), whole.values(kept), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("share", "count"), [(0.0, 3), (0.4, 3), (0.7, 2), (1.0, 1)])
def test_portions_are_as_large_as_memory_allows(share: float, count: int) -> None:
    readers = readers_of(traced("Residual"))
    allowed = int(share * refit_bytes(readers))
    found = portions(readers, allowed)
    assert [reader for portion in found for reader in portion] == list(readers)
    for portion, following in itertools.pairwise(found):
        assert refit_bytes([*portion, following[0]]) > allowed
    assert all(len(portion) == 1 or refit_bytes(portion) <= allowed for portion in found)
    assert len(found) == count
    assert portions([], allowed) == []


def test_random_coalitions_are_worth_no_more_than_all() -> None:
    graph = traced("Residual")
    game = game_of(graph)
    kept = torch.from_numpy(np.stack([random_kept(graph, 0.5, seed) for seed in range(5)]))
    assert (game.values(kept) <= 1e-12).all()
    assert game.values(torch.from_numpy(graph.all_kept())[None])[0] == 0


@pytest.mark.parametrize("name", ONE_INPUT)
def test_outputs_belong_to_the_units_of_their_channels(name: str) -> None:
    graph = traced(name)
    game = game_of(graph, 2)
    for reader, layer in zip(game.readers, game._layers(), strict=True):
        node, weight = reader.layer.node, graph.program.module.get_parameter(reader.layer.weight)
        rank = len(graph.analysis.values[node, None].shape)
        units = graph.axes.get((node, None), {}).get(rank + 1 - weight.dim())
        made = layer._made.flatten()
        if units is None:
            assert (made == -1).all()
        else:
            np.testing.assert_array_equal(made, units)
