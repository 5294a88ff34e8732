"""The repaired game: marginals are those of refits solved anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from graphprune.data import as_batches
from graphprune.errors import OptionError
from graphprune.game import moments
from graphprune.game.games import NetworkGame, RepairedGame
from graphprune.game.moments import with_one
from graphprune.game.repaired import RepairedEvaluator
from graphprune.game.value import class_logits, minus_kl
from graphprune.game.watching import Refitted
from graphprune.graph import DependencyGraph, trace
from tests.game.networks import AnyBatch, FixedBatch, Tokens
from tests.game.test_evaluation import ONE_INPUT
from tests.helpers import batch_of
from tests.traced import traced

DOUBLE = torch.float64
READ_ONLY = ["MLP", "Residual", "Concat", "FlattenLinear", "Conv1d", "Transposed"]
"""Networks whose units are consumed by readers only."""


def evaluator_of(graph: DependencyGraph, n_images: int = 12) -> RepairedEvaluator:
    return RepairedEvaluator(graph, as_batches([batch_of(graph.example_inputs, n_images, 0)]))


def coalition(graph: DependencyGraph, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(graph.n_units, generator=generator) < 0.7
    for needed in graph.needed:
        kept[int(needed[0])] = True
    return kept


def gradients(evaluator: RepairedEvaluator, kept: Tensor, n_draws: int = 1) -> list[Tensor]:
    rows = kept.expand(len(evaluator.batches[0].inputs[0]), -1)
    found = evaluator.gradients(0, rows, minus_kl, torch.Generator().manual_seed(0), n_draws)
    return [found.slope, found.squares, found.score]


def moved(one: Refitted, other: Refitted, step: float) -> Refitted:
    return Refitted(
        one.weight + step * (one.weight - other.weight),
        one.shift + step * (one.shift - other.shift),
    )


@pytest.mark.parametrize("name", READ_ONLY)
def test_slopes_are_derivatives_along_the_way_to_another_refit(name: str) -> None:
    """The network moves from its refit without a unit to that with it, and beyond."""
    graph = traced(name)
    evaluator = evaluator_of(graph)
    kept = coalition(graph, 1)
    slope, _, _ = gradients(evaluator, kept)
    assert not slope[:, ~kept].any()
    batch, step = evaluator.batches[0], 1e-6
    here = evaluator._repaired(kept).refitted
    for unit in kept.nonzero()[::3, 0].tolist():
        without = kept.clone()
        without[unit] = False
        there = evaluator._repaired(without).refitted
        ends = []
        for sign in (1, -1):
            weights = {key: moved(here[key], there[key], sign * step) for key in here}
            done = evaluator._network.run(evaluator.gates(kept), evaluator.inputs(batch), weights)
            ends.append(minus_kl(class_logits(done.outputs), evaluator.reference(0), None))
        expected = (ends[0] - ends[1]).detach() / (2 * step)
        torch.testing.assert_close(slope[:, unit], expected, rtol=1e-4, atol=1e-7)


def test_refits_are_least_squares_on_what_the_unpruned_network_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moments, "RIDGE", 0.0)
    graph = traced("MLP")
    evaluator = evaluator_of(graph, 40)
    kept = coalition(graph, 2)
    found = evaluator._repaired(kept).refitted
    done = evaluator._network.run(
        evaluator.gates(torch.ones(graph.n_units)), evaluator.inputs(evaluator.batches[0])
    )
    for reader in evaluator._readers:
        seen = done.watched[reader.layer.node]
        present = kept[torch.from_numpy(reader.units[0])]
        read = with_one(seen.x[:, present])
        made = seen.y.detach() - evaluator.gated.get_parameter(
            str(evaluator._network.layers[reader.layer.node].bias)
        )
        expected = torch.linalg.lstsq(read, made).solution
        refitted = found[reader.layer.node]
        torch.testing.assert_close(refitted.weight[:, present], expected[:-1].mT)
        torch.testing.assert_close(refitted.shift, expected[-1])
        assert not refitted.weight[:, ~present].any()


def test_the_grand_coalition_is_the_unpruned_network() -> None:
    graph = traced("Residual")
    game = RepairedGame(graph, as_batches([batch_of(graph.example_inputs, 6, 0)]))
    worth = game.values(torch.ones(1, graph.n_units, dtype=torch.bool))
    torch.testing.assert_close(worth, torch.zeros(1, 6, dtype=DOUBLE), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["MLP", "Residual"])
def test_coalitions_are_worth_more_repaired(name: str) -> None:
    graph = traced(name)
    data = as_batches([batch_of(graph.example_inputs, 40, 0)])
    kept = torch.stack([coalition(graph, seed) for seed in range(8)])
    masked = NetworkGame(graph, data).values(kept).mean(1)
    repaired = RepairedGame(graph, data).values(kept).mean(1)
    assert (repaired > masked).sum() >= 7
    assert repaired.mean() > 0.7 * masked.mean()


def test_what_no_reader_consumes_keeps_the_derivative_in_its_gate() -> None:
    """Queries and keys meet in a product; at the grand coalition nothing is refitted."""
    graph = traced("Attend")
    data = as_batches([batch_of(graph.example_inputs, 4, 0)])
    read = np.zeros(graph.n_units, bool)
    evaluator = RepairedEvaluator(graph, data)
    for reader in evaluator._readers:
        read[reader.units[reader.units >= 0]] = True
    assert not read.all()
    everyone = torch.ones(4, graph.n_units, dtype=torch.bool)
    pairs = [
        game(graph, data).gradients(0, everyone, torch.Generator().manual_seed(0), 2)
        for game in (NetworkGame, RepairedGame)
    ]
    for name in ("squares", "score"):
        one, other = (getattr(found, name)[:, ~read] for found in pairs)
        assert one.any()
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["Residual", "PackedAttention", "GroupNorm", "FlattenLinear"])
def test_images_in_one_pass_are_as_images_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced(name)
    kept = coalition(graph, 3)
    together = gradients(evaluator_of(graph, 5), kept, n_draws=2)
    assert evaluator_of(graph, 5)._apart
    monkeypatch.setattr(RepairedEvaluator, "_apart", False)
    for one, other in zip(together, gradients(evaluator_of(graph, 5), kept, 2), strict=True):
        torch.testing.assert_close(one, other)
        assert one.any()


def test_a_network_of_fixed_batch_has_the_slopes_of_its_free_twin() -> None:
    torch.manual_seed(0)
    fixed, free = FixedBatch().double().eval(), AnyBatch().double().eval()
    free.load_state_dict(fixed.state_dict())
    x = torch.randn(2, 6, dtype=DOUBLE)
    kept = torch.tensor([True, False, True, True, True])
    found = [
        gradients(RepairedEvaluator(trace(model, (x,)), as_batches((x,))), kept)
        for model in (fixed, free)
    ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_what_runs_once_for_the_whole_batch_counts_for_every_image() -> None:
    torch.manual_seed(0)
    graph = trace(Tokens().double().eval(), (torch.randn(2, 6, dtype=DOUBLE),))
    evaluator = RepairedEvaluator(graph, as_batches((torch.randn(3, 6, dtype=DOUBLE),)))
    assert not evaluator._apart
    slope, squares, _ = gradients(evaluator, coalition(graph, 0))
    assert slope.any(0).sum() > 4
    assert torch.isfinite(squares).all()


@pytest.mark.parametrize("name", ONE_INPUT)
def test_every_network_has_marginals(name: str) -> None:
    graph = traced(name)
    evaluator = evaluator_of(graph, 3)
    for found in gradients(evaluator, coalition(graph, 4)):
        assert found.shape == (3, graph.n_units)
        assert torch.isfinite(found).all()


def test_coalitions_must_be_shared_and_whole() -> None:
    graph = traced("MLP")
    evaluator = evaluator_of(graph, 2)
    rows = torch.ones(2, graph.n_units)
    rows[0, 0] = 0
    for wrong in (rows, torch.full((2, graph.n_units), 0.5)):
        with pytest.raises(OptionError, match="share a coalition"):
            evaluator.gradients(0, wrong, minus_kl, torch.Generator(), 0)
