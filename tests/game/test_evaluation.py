"""Masked evaluation: values are those of cut networks, gradients those of finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphprune.data import CalibrationBatches, as_batches
from graphprune.game import evaluation
from graphprune.game.evaluation import Evaluator, Running
from graphprune.game.masking import gated_module, unit_gates
from graphprune.game.value import (
    class_logits,
    log_likelihood,
    minus_cross_entropy,
    minus_kl,
    sample_predictions,
)
from graphprune.graph import DependencyGraph, trace
from tests.game.networks import AnyBatch, FixedBatch, Tokens
from tests.helpers import batch_of, random_kept
from tests.networks import NETWORKS
from tests.traced import traced

ONE_INPUT = [name for name in NETWORKS if len(NETWORKS[name].inputs()) == 1]
VARIED = ["Residual", "PaddedShortcut", "Concat", "GroupNorm", "PackedAttention", "FoldedHeads"]


@pytest.fixture
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut seven images into batches of three."""
    monkeypatch.setattr(evaluation, "MAX_BATCH", 3)


def made(name: str, n_images: int = 4) -> tuple[DependencyGraph, CalibrationBatches]:
    graph = traced(name)
    return graph, images_for(graph, n_images)


def images_for(graph: DependencyGraph, n_images: int) -> CalibrationBatches:
    labels = torch.arange(n_images) % 3
    return as_batches([(*batch_of(graph.example_inputs, n_images, 0), labels)])


def coalitions(graph: DependencyGraph, count: int) -> Tensor:
    rows = [random_kept(graph, 0.2 + 0.1 * (seed % 4), seed) for seed in range(count)]
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("name", ONE_INPUT)
def test_cut_in_two_it_computes_what_it_computes_whole(name: str, small_passes: None) -> None:
    graph, data = made(name)
    for group in graph.groups[:3]:
        players = np.zeros(graph.n_units, bool)
        players[group.span] = True
        kept = graph.all_kept()
        kept[group.first + 1 :: 2] &= ~players[group.first + 1 :: 2]
        gates = unit_gates(torch.from_numpy(kept), torch.float64)
        (inputs,) = data.rebatched(9).batches[0].inputs
        with torch.no_grad():
            whole = class_logits(gated_module(graph)(gates, inputs))
            reference = class_logits(gated_module(graph)(torch.ones_like(gates), inputs))
        found = Evaluator(graph, data, players).values(torch.from_numpy(kept)[None], minus_kl)
        torch.testing.assert_close(found[0], minus_kl(whole, reference, None).double())


def test_the_prefix_runs_without_gates_and_the_suffix_without_it() -> None:
    graph, _ = made("Residual")
    players = np.zeros(graph.n_units, bool)
    players[graph.group("a.0.weight").span] = True
    split = evaluation.split_at_gates(gated_module(graph, players), graph)
    count = {
        part: sum("conv2d" in str(node.target) for node in module.graph.nodes)
        for part, module in (("prefix", split.prefix), ("suffix", split.suffix))
    }
    # The stem and the first convolution of the block before the gate, the second one after it.
    assert count == {"prefix": 2, "suffix": 1}


def test_no_coalitions_have_no_values() -> None:
    graph, data = made("MLP")
    none = torch.zeros(0, graph.n_units, dtype=torch.bool)
    assert Evaluator(graph, data).values(none, minus_kl).shape == (0, 4)


@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("performance", [minus_kl, minus_cross_entropy])
def test_gradients_are_finite_differences(name: str, performance: evaluation.Performance) -> None:
    """At coalitions with half-open gates, another for every image."""
    graph, data = made(name)
    evaluator = Evaluator(graph, data)
    opened = torch.from_numpy(np.random.default_rng(0).uniform(0.3, 1, (4, graph.n_units)))
    found = evaluator.gradients(0, opened, performance, torch.Generator(), n_draws=0)
    step = 1e-6
    for unit in range(0, graph.n_units, max(graph.n_units // 6, 1)):
        nudge = torch.zeros(graph.n_units, dtype=torch.float64)
        nudge[unit] = step
        for image in range(4):
            ends = torch.stack([opened[image] + nudge, opened[image] - nudge])
            up, down = evaluator.values(ends, performance)[:, image].tolist()
            expected = (up - down) / (2 * step)
            assert found.slope[image, unit].item() == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_scores_are_derivatives_of_the_likelihood_of_what_was_drawn() -> None:
    graph, data = made("Residual")
    evaluator = Evaluator(graph, data)
    kept = coalitions(graph, 4)
    found = evaluator.gradients(0, kept, minus_kl, torch.Generator().manual_seed(5), n_draws=1)
    drawn = sample_predictions(evaluator.reference(0), torch.Generator().manual_seed(5))

    def likelihood(logits: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
        return log_likelihood(logits, drawn)

    again = evaluator.gradients(0, kept, likelihood, torch.Generator(), n_draws=0)
    torch.testing.assert_close(found.score, again.slope)
    torch.testing.assert_close(found.squares, again.slope.square())


# A standard deviation of exactly 0 has no derivative; ChannelStatistics takes one after a ReLU.
@pytest.mark.parametrize("name", [name for name in ONE_INPUT if name != "ChannelStatistics"])
def test_every_image_has_a_coalition_of_its_own(name: str) -> None:
    """Gradients of a batch of coalitions are those of each coalition on its own."""
    graph, data = made(name, n_images=3)
    evaluator = Evaluator(graph, data)
    kept = coalitions(graph, 3)
    together = evaluator.gradients(0, kept, minus_kl, torch.Generator(), n_draws=0)
    for image in range(3):
        same = kept[image].expand(3, -1)
        alone = evaluator.gradients(0, same, minus_kl, torch.Generator(), n_draws=0)
        torch.testing.assert_close(together.slope[image], alone.slope[image])


# ---- one image at a time ------------------------------------------------------------------------


def double(module: nn.Module) -> nn.Module:
    return module.double().eval()


def test_what_is_computed_once_a_batch_is_differentiated_image_by_image() -> None:
    graph = trace(double(Tokens()), (torch.randn(2, 6, dtype=torch.float64),))
    assert {len(group) for group in graph.groups} == {4, 5}
    evaluator = Evaluator(graph, images_for(graph, 4))
    assert not evaluator.per_sample
    opened = torch.from_numpy(np.random.default_rng(0).uniform(0.3, 1, (4, graph.n_units)))
    found = evaluator.gradients(0, opened, minus_kl, torch.Generator().manual_seed(1), n_draws=2)
    step = 1e-6
    for image in range(4):
        for unit in range(graph.n_units):
            nudge = torch.zeros(graph.n_units, dtype=torch.float64)
            nudge[unit] = step
            ends = torch.stack([opened[image] + nudge, opened[image] - nudge])
            up, down = evaluator.values(ends, minus_kl)[:, image].tolist()
            expected = (up - down) / (2 * step)
            assert found.slope[image, unit].item() == pytest.approx(expected, rel=1e-4, abs=1e-8)
    assert (found.squares > 0).any(1).all()


def test_a_fixed_batch_is_filled_up_and_gives_the_same() -> None:
    fixed, free = double(FixedBatch()), double(AnyBatch())
    free.load_state_dict(fixed.state_dict())
    x = torch.randn(2, 6, dtype=torch.float64)
    graphs = trace(fixed, (x,)), trace(free, (x,))
    assert not graphs[0].program.dynamic_batch
    assert graphs[1].program.dynamic_batch
    data = images_for(graphs[0], 5)
    one, other = (Evaluator(graph, data) for graph in graphs)
    assert (one.per_sample, other.per_sample) == (False, True)
    assert [batch.n_images for batch in one.batches] == [2, 2, 1]
    kept = coalitions(graphs[0], 5)
    for performance in (minus_kl, minus_cross_entropy):
        torch.testing.assert_close(one.values(kept, performance), other.values(kept, performance))
        rows = [
            one.gradients(k, kept[2 * k : 2 * k + 2], performance, torch.Generator(), 0).slope
            for k in range(3)
        ]
        expected = other.gradients(0, kept, performance, torch.Generator(), 0).slope
        torch.testing.assert_close(torch.cat(rows), expected)


# ---- nothing else changes -----------------------------------------------------------------------


def test_the_callers_model_the_graph_and_global_state_stay_as_they_were() -> None:
    model = NETWORKS["Residual"].make()
    model.train()
    graph = trace(model, NETWORKS["Residual"].inputs())
    parameters = dict(graph.program.module.named_parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()[1].copy()
    evaluator = Evaluator(graph, images_for(graph, 4))
    evaluator.values(coalitions(graph, 2), minus_kl)
    evaluator.gradients(0, coalitions(graph, 4), minus_kl, torch.Generator(), n_draws=2)
    assert model.training
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    for name, parameter in graph.program.module.named_parameters():
        assert parameter is parameters[name]
        assert parameter.requires_grad
        assert parameter.grad is None
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    assert threads == torch.get_num_threads()


def test_moving_the_evaluator_leaves_the_traced_weights_where_they_are() -> None:
    graph, data = made("MLP")
    Evaluator(graph, data, running=Running(device="meta"))
    assert {tensor.device.type for tensor in graph.program.module.parameters()} == {"cpu"}


def test_passes_shrink_with_the_size_of_activations() -> None:
    graph, _ = made("Residual")
    assert evaluation.passes_of(graph) == evaluation.MAX_BATCH
    few = evaluation.passes_of(graph, Running(max_memory=200_000))
    assert 1 <= few < evaluation.MAX_BATCH
    assert evaluation.passes_of(graph, Running(max_memory=1)) == 1


def test_single_precision_networks() -> None:
    network = NETWORKS["Residual"]
    graph = trace(network.make().float(), tuple(x.float() for x in network.inputs()))
    exact, data = made("Residual")
    found = Evaluator(graph, data.to(dtype=torch.float32)).values(coalitions(graph, 2), minus_kl)
    assert found.dtype == torch.float64
    expected = Evaluator(exact, data).values(coalitions(exact, 2), minus_kl)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert F.relu(-found).min() >= 0
