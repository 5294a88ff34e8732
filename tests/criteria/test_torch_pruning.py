"""torch-pruning's importances on our groups, against torch-pruning's on its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from graphprune.criteria import rank
from graphprune.criteria.torch_pruning import FIRST_ORDER, PREFIX, SECOND_ORDER, WEIGHTS_ONLY
from graphprune.data import as_batches
from graphprune.errors import OptionError
from graphprune.graph import DependencyGraph, trace
from tests.helpers import batch_of
from tests.networks import NETWORKS

pytestmark = pytest.mark.filterwarnings("ignore")

LABELS = torch.tensor([0, 4, 2, 1, 1])
GROUPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "stem.0.weight": lambda model: model.stem[0],
    "a.0.weight": lambda model: model.a[0],
}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return NETWORKS["Residual"].make().float()


@pytest.fixture(scope="module")
def images(model: nn.Module) -> Tensor:
    return batch_of(NETWORKS["Residual"].inputs(), 5, 0)[0].float()


@pytest.fixture(scope="module")
def graph(model: nn.Module, images: Tensor) -> DependencyGraph:
    return trace(model, (images[:2],))


def squared(model: nn.Module, images: Tensor) -> None:
    """Leave the mean squared gradient of single images in ``grad``, as its Hessian expects."""
    sums: dict[nn.Parameter, Tensor] = {}
    for k in range(len(images)):
        model.zero_grad()
        F.cross_entropy(model(images[k : k + 1]), LABELS[k : k + 1]).backward()
        for parameter in model.parameters():
            sums[parameter] = sums.get(parameter, 0) + parameter.grad.square() / len(images)
    for parameter, total in sums.items():
        parameter.grad = total


@pytest.mark.parametrize("name", [*WEIGHTS_ONLY, *FIRST_ORDER, *SECOND_ORDER])
def test_scores_are_its_own(
    name: str, model: nn.Module, graph: DependencyGraph, images: Tensor
) -> None:
    model.zero_grad()
    F.cross_entropy(model(images), LABELS).backward()
    if name in SECOND_ORDER:
        squared(model, images)
    asked = getattr(tp.importance, f"{name}Importance")()
    theirs = tp.DependencyGraph().build_dependency(model, images[:2])
    ranking = rank(graph, as_batches((images, LABELS)), criterion=PREFIX + name)
    ours = {group.name: group.scores for group in ranking.groups}
    for group, root in GROUPS.items():
        pruned = tp.prune_conv_out_channels
        expected = asked(
            theirs.get_pruning_group(root(model), pruned, idxs=list(range(len(ours[group]))))
        )
        np.testing.assert_allclose(ours[group], expected.numpy(), rtol=2e-5)
    model.zero_grad()


def test_units_that_it_does_not_find_itself_have_scores() -> None:
    network = NETWORKS["PackedAttention"]
    ranking = rank(trace(network.make(), network.inputs()), criterion=PREFIX + "GroupMagnitude")
    assert (ranking.scores > 0).all()
    assert not ranking.protected


def test_without_labels_they_are_drawn(graph: DependencyGraph, images: Tensor) -> None:
    data = as_batches((images,))
    first, again, other = (
        rank(graph, data, criterion=PREFIX + "GroupTaylor", seed=seed).scores for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_network_without_batch_norms_has_no_scales() -> None:
    plain = trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (torch.randn(2, 3),))
    with pytest.raises(OptionError, match="no score for any group"):
        rank(plain, criterion=PREFIX + "BNScale")
