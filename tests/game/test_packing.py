"""Several coalitions in a pass are worth what each is on its own; refused where that is unsure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphprune.batching import BatchPlace
from graphprune.data import CalibrationBatches, as_batches
from graphprune.errors import ModelError
from graphprune.game import evaluation
from graphprune.game.evaluation import Evaluator
from graphprune.game.splitting import SplitNetwork
from graphprune.game.value import minus_cross_entropy, minus_kl
from graphprune.graph import DependencyGraph, trace
from tests.game.networks import FixedBatch, Tokens
from tests.game.test_evaluation import coalitions, double, images_for
from tests.helpers import batch_of
from tests.networks import NETWORKS
from tests.traced import traced

EXACT = 1e-12

SIZED = {
    "Attend": {"conv.0.weight", "fc1.weight"},
    "Permuted": {"conv.0.weight"},
    "PackedAttention": {"embed.weight"},
    "ManualAttention": {"embed.weight"},
    "TorchAttention": {"embed.weight", "attention.in_proj_weight"},
    "TorchAttentionWeights": {"embed.weight", "attention.in_proj_weight"},
    "Windows": {"embed.weight", "qkv.weight"},
}
"""Groups after whose first gate the network asks for the size of its batch."""

WEIGHTED = {"WeightStandardisation": {"a.weight"}}
"""Groups whose gates lie on weights, which all samples share."""

FEW = ["MLP", "Residual", "FoldedHeads", "GRN", "TiedHead", "TwoInputs", "Squeezed", "Einsum"]


def data_for(graph: DependencyGraph, n_images: int) -> CalibrationBatches:
    flat = pytree.tree_leaves(batch_of(graph.example_inputs, n_images, 0))
    return as_batches([(*flat, torch.arange(n_images) % 2)])


def players_of(graph: DependencyGraph, name: str) -> np.ndarray:
    players = np.zeros(graph.n_units, bool)
    players[graph.group(name).span] = True
    return players


def both_ways(evaluator: Evaluator, kept: Tensor, performance: Any = minus_kl) -> list[Tensor]:
    """Return values of many coalitions a pass, and of one a pass."""
    assert evaluator.together > 1
    found = evaluator.values(kept, performance)
    alone = [evaluator.values(row[None], performance) for row in kept]
    return [found, torch.cat(alone)]


def assert_packs(name: str) -> None:
    graph = traced(name)
    refused = SIZED.get(name, set()) | WEIGHTED.get(name, set())
    kept = coalitions(graph, 5)
    for n_images in (1, 3):
        data = data_for(graph, n_images)
        whole = Evaluator(graph, data)
        assert (whole.together == 1) == bool(refused)
        if not refused:
            for performance in (minus_kl, minus_cross_entropy):
                torch.testing.assert_close(*both_ways(whole, kept, performance), **NEAR)
        for group in graph.groups:
            players = players_of(graph, group.name)
            evaluator = Evaluator(graph, data, players)
            assert (evaluator.together == 1) == (group.name in refused)
            if group.name not in refused:
                rows = kept | ~torch.from_numpy(players)
                torch.testing.assert_close(*both_ways(evaluator, rows), **NEAR)


NEAR = {"rtol": EXACT, "atol": EXACT}


@pytest.mark.parametrize("name", FEW)
def test_together_as_alone(name: str) -> None:
    assert_packs(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in FEW])
def test_together_as_alone_everywhere(name: str) -> None:
    assert_packs(name)


@pytest.mark.parametrize("name", ["Attend", "PackedAttention", "WeightStandardisation"])
def test_one_a_pass_where_the_batch_cannot_be_repeated(name: str) -> None:
    assert_packs(name)


def test_passes_are_filled_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced("Residual")
    monkeypatch.setattr(evaluation, "MAX_BATCH", 12)
    evaluator = Evaluator(graph, data_for(graph, 5))
    assert evaluator.together == 2
    sizes = []
    suffix = evaluator._split.suffix
    suffix.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape))
    evaluator.reference(0)
    del sizes[:]
    evaluator.values(coalitions(graph, 5), minus_kl)
    width = graph.n_units + 1
    assert sizes == [(10, width), (10, width), (width,)]
    assert Evaluator(graph, data_for(graph, 7)).together == 1
    # Not where images need several passes themselves.
    assert Evaluator(graph, data_for(graph, 13)).together == 1


def test_one_image_is_filled_up_to_two_that_do_not_count() -> None:
    graph = traced("Squeezed")
    one, three = (Evaluator(graph, data_for(graph, 3).head(n)) for n in (1, 3))
    kept = coalitions(graph, 4)
    found = both_ways(one, kept)
    assert found[0].shape == (4, 1)
    torch.testing.assert_close(*found, **NEAR)
    torch.testing.assert_close(found[0], three.values(kept, minus_kl)[:, :1], **NEAR)


def test_a_fixed_batch_and_shared_weights_run_one_a_pass() -> None:
    fixed = trace(double(FixedBatch()), (torch.randn(2, 6, dtype=torch.float64),))
    assert Evaluator(fixed, images_for(fixed, 2)).together == 1
    tokens = trace(double(Tokens()), (torch.randn(2, 6, dtype=torch.float64),))
    assert Evaluator(tokens, images_for(tokens, 2)).together == 1
    # The other group's gates lie on what holds the batch.
    players = players_of(tokens, "one.weight")
    evaluator = Evaluator(tokens, images_for(tokens, 2), players)
    rows = coalitions(tokens, 5) | ~torch.from_numpy(players)
    torch.testing.assert_close(*both_ways(evaluator, rows), **NEAR)


class TokensFirst(nn.Module):
    """What no coalition changes holds tokens before the batch, or heads after it."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before, self.embed = before, nn.Linear(4, 4)
        self.up, self.down, self.last = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embed(x).tanh()
        folded = (embedded.transpose(0, 1) if self.before else embedded).flatten(0, 1)
        hidden = self.down(self.up(folded).tanh())
        # Of a dim that holds the batch its size is not asked for again.
        seen = hidden.unflatten(0, (5, -1) if self.before else (-1, 5))
        return self.last(seen.mean(0 if self.before else 1))


@pytest.mark.parametrize("before", [True, False])
def test_folded_borders_are_repeated(before: bool) -> None:
    graph = trace(double(TokensFirst(before)), (torch.randn(2, 5, 4, dtype=torch.float64),))
    players = players_of(graph, "up.weight")
    evaluator = Evaluator(graph, data_for(graph, 3), players)
    places = [place for place in evaluator._split.places if place is not None]
    folds = (5, 1) if before else (1, 5)
    assert folds in {(place.outer, place.repeats) for place in places}
    rows = coalitions(graph, 6) | ~torch.from_numpy(players)
    torch.testing.assert_close(*both_ways(evaluator, rows), **NEAR)


def split_with(*places: BatchPlace | None) -> SplitNetwork:
    none = torch.fx.GraphModule(nn.Module(), torch.fx.Graph())
    return SplitNetwork(none, none, places)


def test_repeating_by_hand() -> None:
    """Entries a0 a1 b0 b1 (sample a, b) and the like; two coalitions."""
    inner = BatchPlace(0, 2)
    outer = BatchPlace(0, 1, outer=2)
    mixed = BatchPlace(1, 2, outer=2)
    split = split_with(inner, outer, mixed, None)
    border = (
        torch.tensor([0, 1, 10, 11]),
        torch.tensor([0, 10, 1, 11]),
        torch.tensor([[0, 1, 10, 11, 2, 3, 12, 13]]),
        torch.tensor([7, 8]),
    )
    found = [x.tolist() for x in split.repeated(border, 2)]
    assert found == [
        [0, 1, 10, 11, 0, 1, 10, 11],
        [0, 10, 0, 10, 1, 11, 1, 11],
        [[0, 1, 10, 11, 0, 1, 10, 11, 2, 3, 12, 13, 2, 3, 12, 13]],
        [7, 8],
    ]
    once = split.repeated(border, 1)
    assert all(x is y for x, y in zip(once, border, strict=True))


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ((), True),
        ((None,), True),
        ((BatchPlace(0, 3, outer=2), None), True),
        ((BatchPlace(0, 1), BatchPlace(1, 1, known=False)), False),
    ],
)
def test_whether_it_repeats(places: tuple[BatchPlace | None, ...], expected: bool) -> None:
    assert split_with(*places).repeats is expected


# ---- predictions that do not lie image by image -------------------------------------------------


class Mixed(nn.Module):
    """Predictions of tokens, laid out in several ways."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout, self.one, self.two = layout, nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(x).tanh())
        return {
            "batch first": x,
            "tokens first": x.transpose(0, 1),
            "flat": x.flatten(0, 1),
            "flat, tokens first": x.transpose(0, 1).flatten(0, 1),
        }[self.layout]


@pytest.mark.parametrize("layout", ["tokens first", "flat", "flat, tokens first"])
def test_predictions_must_lie_image_by_image(layout: str) -> None:
    """The first rows would be taken for the images."""
    graph = trace(double(Mixed(layout)), (torch.randn(2, 5, 4, dtype=torch.float64),))
    with pytest.raises(ModelError, match=r"does not hold its predictions as \(images, \.\.\.\)"):
        Evaluator(graph, data_for(graph, 3))
    plain = trace(double(Mixed("batch first")), (torch.randn(2, 5, 4, dtype=torch.float64),))
    assert Evaluator(plain, data_for(plain, 3)).reference(0).shape == (3, 5, 3)
