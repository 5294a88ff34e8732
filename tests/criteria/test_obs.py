"""Refit errors against least squares solved anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphprune.columns import every_place
from graphprune.criteria import rank
from graphprune.data import as_batches
from graphprune.game import greedy, moments
from graphprune.game.evaluation import Evaluator
from graphprune.game.greedy import greedy_errors
from graphprune.game.moments import gather_moments
from graphprune.game.readers import Block, readers_of
from graphprune.game.watching import WatchedNetwork
from graphprune.graph import trace
from tests.game.networks import FixedBatch
from tests.helpers import batch_of
from tests.traced import traced

DOUBLE = torch.float64


def least_error(columns: Tensor, target: Tensor, kept: list[int], weights: Tensor) -> float:
    """Return half the weighted mean squared error of least squares on some columns."""
    read = torch.cat([columns[:, kept], torch.ones(len(columns), 1, dtype=DOUBLE)], 1)
    left = target - read @ torch.linalg.lstsq(read, target).solution
    return 0.5 * float((left.square().mean(0) * weights).sum())


def greedily(
    columns: Tensor,
    target: Tensor,
    units: dict[int, list[int]],
    weights: Tensor,
    always: tuple[int, ...] = (),
) -> dict[int, float]:
    """Remove units one by one with a refit for every candidate; some columns always stay."""
    found: dict[int, float] = {}
    error, largest = 0.0, 0.0
    while len(found) < len(units):
        left = [unit for unit in units if unit not in found]
        tried = {
            unit: least_error(
                columns,
                target,
                [*always, *(c for u in left if u != unit for c in units[u])],
                weights,
            )
            for unit in left
        }
        unit = min(tried, key=tried.__getitem__)
        largest = max(largest, tried[unit] - error)
        error = tried[unit]
        found[unit] = largest
    return found


@pytest.fixture
def columns() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(80, 8, generator=generator, dtype=DOUBLE)
    return mixed @ torch.randn(8, 8, generator=generator, dtype=DOUBLE) + 1


@pytest.mark.parametrize("steps", [128, 2])
def test_greedy_errors_are_those_of_refits_solved_anew(
    columns: Tensor, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where several units go in a step, as long as the cheapest are among the candidates."""
    monkeypatch.setattr(greedy, "STEPS", steps)
    blocks = (
        Block(np.array([0, 2]), np.array([[0, 3], [1, 4]])),
        Block(np.array([1, 3, 4, 5]), np.array([[2], [5], [6], [7]])),
    )
    units = {0: [0, 3], 2: [1, 4], 1: [2], 3: [5], 4: [6], 5: [7]}
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    worth = torch.tensor([0.5, 2.0, 1.0], dtype=DOUBLE)
    with_one = torch.cat([columns, torch.ones(80, 1, dtype=DOUBLE)], 1)
    inverse = torch.linalg.inv(with_one.mT @ with_one / 80)[:-1, :-1]
    found = greedy_errors(worth.sqrt()[:, None] * weight, inverse, blocks)
    expected = greedily(columns, columns @ weight.mT, units, worth)
    assert [unit for unit, _ in found] == list(expected)
    np.testing.assert_allclose([e for _, e in found], list(expected.values()), rtol=1e-8)


def test_columns_that_are_always_there_help_to_make_up(columns: Tensor) -> None:
    """They belong to no unit, as those of a pinned input do."""
    blocks = (Block(np.array([7, 3, 5]), np.array([[1], [4], [6]])),)
    units, always = {7: [1], 3: [4], 5: [6]}, (0, 2, 3, 5, 7)
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    with_one = torch.cat([columns, torch.ones(80, 1, dtype=DOUBLE)], 1)
    inverse = torch.linalg.inv(with_one.mT @ with_one / 80)[:-1, :-1]
    found = greedy_errors(weight.clone(), inverse, blocks)
    worth = torch.ones(3, dtype=DOUBLE)
    expected = greedily(columns, columns @ weight.mT, units, worth, always)
    assert [unit for unit, _ in found] == list(expected)
    np.testing.assert_allclose([e for _, e in found], list(expected.values()), rtol=1e-8)
    alone = greedily(columns, columns @ weight.mT, units, worth)
    assert alone[found[-1][0]] > 2 * expected[found[-1][0]]


def test_a_unit_that_others_can_stand_in_for_costs_nothing() -> None:
    """Two equal channels: one of them goes for free, though its weights are the largest."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double().eval()
    with torch.no_grad():
        model[0].weight[3] = model[0].weight[1]
        model[0].bias[3] = model[0].bias[1]
        model[2].weight[:, 1:4:2] *= 3
    graph = trace(model, (torch.randn(2, 6, dtype=DOUBLE),))
    scores = rank(graph, as_batches((torch.randn(64, 6, dtype=DOUBLE),)), criterion="obs").scores
    assert scores.argmin() in (1, 3)
    assert scores.min() < 0.1 * np.median(scores)
    assert scores.argmax() in (1, 3)


def test_scores_add_up_over_readers_and_match_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two readers of one stream, every place seen, no ridge."""
    monkeypatch.setattr(moments, "RIDGE", 0.0)
    graph = traced("Residual")
    (x,) = batch_of(graph.example_inputs, 9, 0)
    ranking = rank(graph, as_batches((x,)), criterion="obs")
    found = {group.name: group.scores for group in ranking.groups}
    evaluator = Evaluator(graph, as_batches((x,)))
    readers = readers_of(graph)
    network = WatchedNetwork(evaluator.gated, readers)
    gathered = gather_moments(evaluator, network, readers, 0)
    done = network.run(evaluator.gates(torch.ones(graph.n_units)), (x,))
    expected = np.zeros(graph.n_units)
    for reader in readers:
        name = reader.layer.node
        layer, watched = network.layers[name], done.watched[name]
        places = every_place(layer, watched.y)
        columns = layer.layout.columns(watched.x, watched.y, places)[0]
        target = columns @ layer.layout.matrix(network.weight(name).detach())[0].mT
        units = {
            int(unit): np.flatnonzero(reader.units[0] == unit).tolist()
            for unit in np.unique(reader.units)
        }
        worth = gathered[name].sensitivity[0].sqrt()
        for unit, error in greedily(columns, target, units, worth).items():
            expected[unit] += error
    np.testing.assert_allclose(
        np.concatenate(list(found.values())), expected, rtol=1e-6, atol=1e-10
    )


@pytest.mark.parametrize(
    "name",
    ["MLP", "FlattenLinear", "Conv1d", "Conv3d", "Concat", "PackedAttention", "Transposed"],
)
def test_every_unit_has_a_score(name: str) -> None:
    graph = traced(name)
    inputs = batch_of(graph.example_inputs, 6, 0)
    ranking = rank(graph, as_batches([inputs]), criterion="obs")
    assert np.isfinite(ranking.scores).all()
    assert (ranking.scores > 0).all()


def test_what_fills_up_a_fixed_batch_does_not_count() -> None:
    torch.manual_seed(0)
    graph = trace(FixedBatch().double().eval(), (torch.randn(2, 6, dtype=DOUBLE),))
    x = torch.randn(3, 6, dtype=DOUBLE)
    grams = []
    for n in (3, 2):
        evaluator = Evaluator(graph, as_batches((x[:n],)))
        readers = readers_of(graph)
        network = WatchedNetwork(evaluator.gated, readers)
        grams.append([m.gram for m in gather_moments(evaluator, network, readers, 0).values()])
    assert len(grams[0]) == 1
    torch.testing.assert_close(grams[0], grams[1])
