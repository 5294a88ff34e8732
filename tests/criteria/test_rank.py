"""Asking for a ranking: choices, data, errors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graphprune.criteria import criterion, rank
from graphprune.criteria.request import RankRequest, Scored
from graphprune.data import as_batches
from graphprune.errors import BudgetError, DataError, GraphpruneError, OptionError
from graphprune.game import evaluation
from graphprune.graph import DependencyGraph, trace
from graphprune.steering import protected_groups
from tests.game.networks import FixedBatch, Tokens
from tests.helpers import batch_of
from tests.networks import NETWORKS
from tests.traced import traced


@pytest.fixture(scope="module")
def graph() -> DependencyGraph:
    return traced("Residual")


@pytest.fixture(scope="module")
def images(graph: DependencyGraph) -> torch.Tensor:
    (x,) = batch_of(graph.example_inputs, 5, 0)
    return x


# ---- what is chosen where nothing is said -------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("network", "gradients", "kl", "magnitude")),
        ({"value": "cross-entropy"}, ("network", "gradients", "cross-entropy", "magnitude")),
        ({"value": "accuracy"}, ("group", "exact", "accuracy", "magnitude")),
        ({"estimator": "permutation"}, ("group", "permutation", "kl", "magnitude")),
        ({"estimator": "exact"}, ("group", "exact", "kl", "magnitude")),
        ({"game": "group"}, ("group", "exact", "kl", "magnitude")),
        ({"game": "group", "budget": 3}, ("group", "owen", "kl", "magnitude")),
        ({"game": "group", "budget": 4}, ("group", "gaussian-process", "kl", "magnitude")),
        ({"game": "group", "budget": 32}, ("group", "exact", "kl", "magnitude")),
        ({"game": "group", "budget": 20}, ("group", "exact+gaussian-process", "kl", "magnitude")),
        ({"game": "network", "estimator": "permutation"}, ("network", "permutation", "kl", None)),
        ({"aggregate": "mean"}, ("network", "gradients", "kl", "mean")),
        ({"criterion": "shapley-paper"}, ("group", "permutation", "cross-entropy", "mean+2std")),
        (
            {"criterion": "shapley-paper", "value": "kl", "estimator": "permutation"},
            ("group", "permutation", "kl", "mean+2std"),
        ),
    ],
)
def test_choices(
    options: dict[str, Any],
    expected: tuple[str | None, ...],
    graph: DependencyGraph,
    images: torch.Tensor,
) -> None:
    ranking = rank(graph, as_batches((images, torch.tensor([0, 4, 2, 1, 1]))), **options)
    assert (ranking.game, ranking.estimator, ranking.value) == expected[:3]
    assert ranking.aggregate == (expected[3] or "magnitude")
    assert ranking.n_images == 5
    assert ranking.evaluations > 0
    assert [group.units for group in ranking.groups] == [8, 6]


def test_the_paper_needs_no_labels_either(graph: DependencyGraph, images: torch.Tensor) -> None:
    assert rank(graph, as_batches((images,)), criterion="shapley-paper").value == "kl"


def test_a_group_game_spends_what_it_is_allowed(graph: DependencyGraph) -> None:
    ranking = rank(graph, estimator="permutation", budget=5)
    assert ranking.evaluations <= 5 * graph.n_units


def test_groups_of_one_size_do_not_share_their_orders() -> None:
    """Two equal groups of one network: equal values, other draws."""
    network = NETWORKS["Dense"]
    model = network.make()
    ranking = rank(trace(model, network.inputs()), estimator="permutation", seed=1)
    again = rank(trace(model, network.inputs()), estimator="permutation", seed=1)
    other = rank(trace(model, network.inputs()), estimator="permutation", seed=2)
    np.testing.assert_array_equal(ranking.scores, again.scores)
    assert (ranking.scores != other.scores).any()


def test_synthetic_data_where_none_is_given(graph: DependencyGraph) -> None:
    ranking = rank(graph, seed=1)
    assert ranking.n_images == 32
    np.testing.assert_array_equal(ranking.scores, rank(graph, seed=1).scores)
    assert (ranking.scores != rank(graph, seed=2).scores).any()


def test_single_precision_data_fit_a_double_network(
    graph: DependencyGraph, images: torch.Tensor
) -> None:
    exact = rank(graph, as_batches((images.float(),)), criterion="taylor")
    np.testing.assert_array_equal(
        exact.scores, rank(graph, as_batches((images.float().double(),)), criterion="taylor").scores
    )


@pytest.mark.parametrize("make", [FixedBatch, Tokens])
@pytest.mark.parametrize("name", ["shapley", "shapley-paper", "taylor"])
def test_networks_that_run_image_by_image(make: Callable[[], nn.Module], name: str) -> None:
    graph = trace(make(), (torch.randn(2, 6),))
    ranking = rank(graph, as_batches((torch.randn(5, 6),)), criterion=name)
    assert (ranking.scores != 0).any()


def test_token_networks_can_be_ranked_by_weights_without_data() -> None:
    graph = token_network()
    assert (rank(graph, criterion="l2").scores > 0).all()
    with pytest.raises(DataError, match="takes integer inputs, which cannot be made up") as error:
        rank(graph)
    assert "--data" in str(error.value)
    tokens = torch.arange(24).reshape(4, 6) % 7
    assert rank(graph, as_batches([(tokens,)])).n_images == 4


def token_network() -> DependencyGraph:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Flatten(), nn.Linear(30, 8), nn.Linear(8, 3))
    return trace(model, (torch.arange(12).reshape(2, 6) % 7,))


def test_a_network_without_units_has_an_empty_ranking() -> None:
    graph = trace(nn.Sequential(nn.Linear(4, 3)), (torch.randn(2, 4),))
    for name in ("shapley", "shapley-paper", "l1", "taylor", "random"):
        ranking = rank(graph, criterion=name)
        assert (ranking.groups, ranking.scores.size) == ((), 0)


# ---- only and skip ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        ((), (), ()),
        (("a.*",), (), ("stem.0.weight",)),
        (("a.0",), (), ("stem.0.weight",)),
        (("b",), (), ("a.0.weight",)),
        ((), ("stem.0.weight",), ("stem.0.weight",)),
        (("*",), ("b.weight",), ("stem.0.weight",)),
        (("a.*", "stem.*"), (), ()),
        # A module reads units, too; one that makes none (its outputs are pinned) stands for those.
        ((), ("a",), ("stem.0.weight", "a.0.weight")),
        ((), ("b",), ("stem.0.weight", "a.0.weight")),
        ((), ("head",), ("stem.0.weight",)),
        ((), ("head.fc.weight",), ("stem.0.weight",)),
        ((), ("head.fc.bias",), ()),
        # A norm makes no units, but passes them on.
        ((), ("a.1",), ("a.0.weight",)),
    ],
)
def test_protected_groups(
    only: tuple[str, ...], skip: tuple[str, ...], expected: tuple[str, ...], graph: DependencyGraph
) -> None:
    assert protected_groups(graph, only, skip) == expected
    assert rank(graph, criterion="l1", only=only, skip=skip).protected == expected


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"criterion": "shapely"}, OptionError, "'shapely' is none of apoz, bn-scale, fisher, "),
        ({"game": "layer"}, OptionError, "game 'layer' is none of network, group"),
        ({"value": "loss"}, OptionError, "value 'loss' is none of kl, cross-entropy, accuracy"),
        ({"aggregate": "median"}, OptionError, "aggregate 'median' is none of magnitude, mean"),
        (
            {"estimator": "kernel"},
            OptionError,
            "'kernel' is none of auto, antithetic, exact",
        ),
        ({"budget": 0}, OptionError, "a budget of 0 is less than 1"),
        ({"seed": -1}, OptionError, "seed -1 is negative"),
        ({"only": ("layer9.*",)}, OptionError, r"pattern 'layer9\.\*' matches no group"),
        ({"skip": ("layer9.*",)}, OptionError, r"pattern 'layer9\.\*' matches no group"),
        ({"game": "group", "estimator": "gradients"}, OptionError, "whole-network game only"),
        ({"criterion": "shapley-paper", "game": "network"}, OptionError, "one game per group"),
        ({"budget": 1}, BudgetError, "1 coalitions per image do not pay for two rounds"),
        ({"game": "group", "budget": 1}, BudgetError, "do not pay for two pairs of gradients"),
        (
            {"game": "group", "budget": 1, "estimator": "permutation"},
            BudgetError,
            "fewer than two times orders of 8 players",
        ),
        ({"estimator": "exact", "budget": 3}, BudgetError, "exact values of 8 players take"),
        ({"game": "network", "estimator": "exact"}, BudgetError, "exact|2.14"),
        ({"value": "cross-entropy"}, DataError, "value 'cross-entropy' needs labels"),
        ({"value": "accuracy"}, DataError, "value 'accuracy' needs labels"),
    ],
)
def test_errors(
    options: dict[str, Any],
    kind: type[GraphpruneError],
    message: str,
    graph: DependencyGraph,
    images: torch.Tensor,
) -> None:
    if "exact|" in message:
        options, message = {**options, "budget": 1}, "exact values of 14 players take"
    with pytest.raises(kind, match=message) as error:
        rank(graph, as_batches((images,)), **options)
    assert type(error.value) is kind


def test_steps_cannot_be_differentiated(graph: DependencyGraph, images: torch.Tensor) -> None:
    data = as_batches((images, torch.tensor([0, 4, 2, 1, 1])))
    with pytest.raises(OptionError, match="'accuracy' changes in steps"):
        rank(graph, data, value="accuracy", game="network", estimator="gradients")


def test_data_of_another_shape(graph: DependencyGraph) -> None:
    with pytest.raises(DataError, match="gives 3x9x9, the model takes 3x8x8"):
        rank(graph, as_batches((torch.randn(2, 3, 9, 9),)))


def test_labels_that_the_network_has_no_class_for(
    graph: DependencyGraph, images: torch.Tensor
) -> None:
    with pytest.raises(DataError, match="label 5; the model's 5 outputs allow 0 to 4"):
        rank(graph, as_batches((images, torch.tensor([0, 1, 2, 3, 5]))), value="cross-entropy")


@pytest.mark.parametrize("name", ["shapley", "taylor", "shapley-paper"])
def test_outputs_that_are_not_finite(name: str, images: torch.Tensor) -> None:
    model = NETWORKS["Residual"].make().float()
    graph = trace(model, (images.float(),))
    with pytest.raises(DataError, match="the network's outputs on the calibration data are not"):
        rank(graph, as_batches((images.float() * 1e38,)), criterion=name)


def test_gradients_that_are_not_finite() -> None:
    """The square root has no derivative at zero, which half of the units output."""
    graph = trace(Rooted(), (torch.randn(2, 4),))
    with pytest.raises(DataError, match="gate gradients on the calibration data are not finite"):
        rank(graph)
    with pytest.raises(DataError, match="criterion 'taylor' gave scores that are not finite"):
        rank(graph, criterion="taylor")


class Rooted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.two(self.one(x).relu()).relu() * 0).sqrt() + self.two(self.one(x))


def test_a_name_is_given_once() -> None:
    def score(request: RankRequest) -> Scored:
        raise AssertionError

    with pytest.raises(OptionError, match="two criteria are called 'l1'"):
        criterion("l1", needs_data=False)(score)


# ---- progress -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"game": "group"}, {"criterion": "taylor"}])
def test_progress_rises_to_its_end(
    options: dict[str, Any],
    graph: DependencyGraph,
    images: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "MAX_BATCH", 2)
    seen: list[tuple[str, float]] = []
    rank(
        graph,
        as_batches((images,)),
        progress=lambda stage, done, total: seen.append((stage, done / total)),
        **options,
    )
    # Groups count on from one to the next; other stages come one after the other.
    stages = groupby(seen, lambda step: "group" if "game" in options else step[0])
    for _, steps in stages:
        shares = [share for _, share in steps]
        assert shares == sorted(shares)
        assert shares[-1] == 1
