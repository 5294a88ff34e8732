"""Games are worth what cut networks are worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graphprune.data import as_batches
from graphprune.errors import DataError, OptionError
from graphprune.game import evaluation
from graphprune.game.games import GroupGame, NetworkGame
from graphprune.graph import trace
from graphprune.surgery import cut
from tests.helpers import batch_of, random_kept, run_zeroed
from tests.networks import NETWORKS
from tests.traced import traced

VARIED = [
    "Residual",
    "PaddedShortcut",
    "FlattenLinear",
    "Depthwise",
    "GroupNorm",
    "GRN",
    "SqueezeExcite",
    "Shuffle",
    "PackedAttention",
]


def worth(outputs: torch.Tensor, whole: torch.Tensor, labels: torch.Tensor, value: str) -> object:
    if value == "kl":
        logs = outputs.log_softmax(1)
        return -F.kl_div(logs, whole.log_softmax(1), reduction="none", log_target=True).sum(1)
    if value == "cross-entropy":
        return outputs.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return (outputs.argmax(1) == labels).double()


@pytest.mark.parametrize("value", ["kl", "cross-entropy", "accuracy"])
@pytest.mark.parametrize("name", VARIED)
def test_a_coalition_is_worth_what_the_cut_network_is(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "MAX_BATCH", 3)
    model = NETWORKS[name].make()
    graph = trace(model, NETWORKS[name].inputs())
    (x,) = batch_of(graph.example_inputs, 7, 0)
    with torch.no_grad():
        whole = model(x)
        labels = whole.argmax(1).roll(1)
        network = NetworkGame(graph, as_batches((x, labels)), value)
        for seed, group in enumerate(graph.groups):
            game = GroupGame(graph, group, as_batches((x, labels)), value)
            kept = graph.all_kept()
            kept[group.span] = random_kept(graph, 0.4, seed)[group.span]
            rows = torch.from_numpy(np.stack([kept, graph.all_kept()]))
            expected = [worth(cut(graph, k.numpy())(x), whole, labels, value) for k in rows]
            found = game.values(rows[:, group.span])
            torch.testing.assert_close(found, torch.stack(expected))
            torch.testing.assert_close(found, network.values(rows))
            assert game.evaluations == 2
    # The grand coalition is asked for again with every group, and known.
    assert network.evaluations == 1 + len(graph.groups)


@pytest.mark.parametrize("name", ["Residual", "FlattenLinear", "Concat"])
def test_the_empty_coalition_is_worth_what_zeroed_slices_are(name: str) -> None:
    model = NETWORKS[name].make()
    graph = trace(model, NETWORKS[name].inputs())
    (x,) = batch_of(graph.example_inputs, 3, 0)
    whole = model(x).detach()
    for group in graph.groups:
        kept = graph.all_kept()
        kept[group.span] = False
        (outputs,) = run_zeroed(model, graph, kept, (x,))
        game = GroupGame(graph, group, as_batches((x,)), "kl")
        found = game.values(torch.zeros(1, len(group), dtype=torch.bool))
        torch.testing.assert_close(found[0], worth(outputs, whole, torch.zeros(3), "kl"))


def test_the_grand_coalition_diverges_from_itself_by_nothing() -> None:
    graph = traced("Residual")
    data = as_batches(batch_of(graph.example_inputs, 3, 0))
    game = NetworkGame(graph, data, "kl")
    everything = torch.ones(1, graph.n_units, dtype=torch.bool)
    # Packed into one pass with others, a coalition is rounded in another way than alone.
    assert game.values(everything).abs().max() < 1e-12
    assert game.removed_macs(graph.all_kept()) == 0
    assert 0 < game.removed_macs(random_kept(graph, 0.3, 0)) < 1
    assert game.per_sample
    assert (game.n_images, game.batch_sizes) == (3, (3,))


@pytest.mark.parametrize("value", ["cross-entropy", "accuracy"])
def test_labels_are_asked_for_where_they_are_needed(value: str) -> None:
    graph = traced("MLP")
    data = as_batches(batch_of(graph.example_inputs, 3, 0))
    for make in (
        lambda: NetworkGame(graph, data, value),
        lambda: GroupGame(graph, graph.groups[0], data, value),
    ):
        with pytest.raises(DataError, match=f"value '{value}' needs labels") as error:
            make()
        assert "--value kl" in str(error.value)


def test_steps_have_no_gradients() -> None:
    graph = traced("MLP")
    (x,) = batch_of(graph.example_inputs, 3, 0)
    game = NetworkGame(graph, as_batches((x, torch.tensor([0, 1, 2]))), "accuracy")
    everything = torch.ones(3, graph.n_units, dtype=torch.bool)
    with pytest.raises(OptionError, match="'accuracy' changes in steps"):
        game.gradients(0, everything, torch.Generator(), 1)
