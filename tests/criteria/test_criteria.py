"""Criteria without a game: against hand computation and hooks on the original module."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphprune.criteria import available, needs_data, rank
from graphprune.criteria.torch_pruning import PREFIX, WEIGHTS_ONLY
from graphprune.data import as_batches
from graphprune.errors import OptionError
from graphprune.game import evaluation
from graphprune.graph import DependencyGraph, trace
from graphprune.ranking import Scores
from graphprune.selection import select
from graphprune.surgery import cut
from tests.game.networks import AnyBatch, FixedBatch
from tests.helpers import batch_of, run
from tests.networks import NETWORKS

STREAM, INTERIOR = "stem.0.weight", "a.0.weight"


@pytest.fixture
def model() -> nn.Module:
    return NETWORKS["Residual"].make()


@pytest.fixture
def graph(model: nn.Module) -> DependencyGraph:
    return trace(model, NETWORKS["Residual"].inputs())


@pytest.fixture
def images(graph: DependencyGraph) -> Tensor:
    (x,) = batch_of(graph.example_inputs, 5, 0)
    return x


def scores_of(graph: DependencyGraph, name: str, **options: object) -> dict[str, Scores]:
    return {group.name: group.scores for group in rank(graph, criterion=name, **options).groups}


# ---- weights ------------------------------------------------------------------------------------


def test_l1_adds_up_all_producers_of_a_unit(model: nn.Module, graph: DependencyGraph) -> None:
    found = scores_of(graph, "l1")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for unit in range(8):
        expected = (
            np.abs(state["stem.0.weight"][unit]).sum() + np.abs(state["b.weight"][unit]).sum()
        )
        assert found[STREAM][unit] == pytest.approx(expected)
    for unit in range(6):
        assert found[INTERIOR][unit] == pytest.approx(np.abs(state["a.0.weight"][unit]).sum())


def test_l2_is_the_norm_of_all_producers(model: nn.Module, graph: DependencyGraph) -> None:
    found = scores_of(graph, "l2")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for unit in range(8):
        both = np.concatenate([state[name][unit].ravel() for name in ("stem.0.weight", "b.weight")])
        assert found[STREAM][unit] == pytest.approx(np.linalg.norm(both))
    for unit in range(6):
        assert found[INTERIOR][unit] == pytest.approx(np.linalg.norm(state["a.0.weight"][unit]))


def test_norms_of_transposed_convolutions_run_over_their_output_channels() -> None:
    model = NETWORKS["Transposed"].make()
    found = scores_of(trace(model, NETWORKS["Transposed"].inputs()), "l1")
    weight = model.state_dict()["1.weight"].abs().sum((0, 2, 3))
    np.testing.assert_allclose(found["1.weight"], weight.numpy())


def test_norms_look_at_no_data() -> None:
    without = {"l1", "l2", "random", "group-magnitude", "bn-scale"}
    without |= {PREFIX + name for name in WEIGHTS_ONLY}
    assert {name for name in available() if not needs_data(name)} == without
    network = NETWORKS["Residual"]
    ranking = rank(trace(network.make(), network.inputs()), criterion="l2")
    assert (ranking.n_images, ranking.evaluations, ranking.game) == (0, 0, None)


def test_group_magnitude_counts_readers_too(model: nn.Module, graph: DependencyGraph) -> None:
    found = scores_of(graph, "group-magnitude")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for unit in range(6):
        both = np.concatenate(
            [state["a.0.weight"][unit].ravel(), state["b.weight"][:, unit].ravel()]
        )
        assert found[INTERIOR][unit] == pytest.approx(np.linalg.norm(both))
    for unit in range(8):
        slices = [state[name][unit].ravel() for name in ("stem.0.weight", "b.weight")]
        slices += [state[name][:, unit].ravel() for name in ("a.0.weight", "head.fc.weight")]
        assert found[STREAM][unit] == pytest.approx(np.linalg.norm(np.concatenate(slices)))


def test_bn_scale_is_the_mean_of_the_norms_on_the_way(
    model: nn.Module, graph: DependencyGraph
) -> None:
    found = scores_of(graph, "bn-scale")
    scales = {
        name: module.weight.detach().abs().numpy()
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    by_width = {8: [s for s in scales.values() if len(s) == 8]}
    np.testing.assert_allclose(found[STREAM], np.mean(by_width[8], 0))
    np.testing.assert_allclose(found[INTERIOR], scales["a.1"])


def test_bn_scale_leaves_alone_what_passes_no_batch_norm() -> None:
    normed = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1))
    model = nn.Sequential(*normed, nn.ReLU(), nn.Conv2d(5, 2, 1)).double().eval()
    graph = trace(model, (torch.randn(2, 3, 4, 4, dtype=torch.float64),))
    ranking = rank(graph, criterion="bn-scale")
    assert ranking.protected == ("3.weight",)
    assert "0.weight" in select(ranking, ratio=0.3).removed
    assert 0 not in select(ranking, ratio=0.3).removed["3.weight"]
    plain = trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (torch.randn(2, 3),))
    with pytest.raises(OptionError, match="no unit passes one"):
        rank(plain, criterion="bn-scale")


def test_random_is_reproducible_and_uniform(graph: DependencyGraph) -> None:
    first, second = rank(graph, criterion="random", seed=7), rank(graph, criterion="random", seed=7)
    other = rank(graph, criterion="random", seed=8)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert (first.scores != other.scores).all()
    assert ((first.scores >= 0) & (first.scores < 1)).all()
    assert first.seed == 7


# ---- gradients ----------------------------------------------------------------------------------


def contributions(
    model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]
) -> dict[str, np.ndarray]:
    """Sum ``z * dL/dz`` over positions and consumers, (images, units), with plain module hooks."""
    reads: dict[str, list[Tensor]] = {STREAM: [], INTERIOR: []}

    def watch(group: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            own = inputs[0].clone()
            own.retain_grad()
            reads[group].append(own)
            return (own,)

        return hook

    handles = [
        model.a[0].register_forward_pre_hook(watch(STREAM)),
        model.head.fc.register_forward_pre_hook(watch(STREAM)),
        model.b.register_forward_pre_hook(watch(INTERIOR)),
    ]
    loss(model(x)).backward()
    for handle in handles:
        handle.remove()
    return {
        group: sum((z * z.grad).flatten(2).sum(2) if z.dim() > 2 else z * z.grad for z in listed)
        .detach()
        .numpy()
        for group, listed in reads.items()
    }


@pytest.mark.parametrize(
    ("name", "reduce"),
    [
        ("taylor", lambda per_image: np.abs(per_image).mean(0)),
        ("fisher", lambda per_image: np.square(per_image).mean(0)),
        ("taylor-signed", lambda per_image: -per_image.mean(0)),
    ],
)
def test_gradient_criteria_with_labels(
    name: str,
    reduce: Callable[[np.ndarray], np.ndarray],
    model: nn.Module,
    graph: DependencyGraph,
    images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "MAX_BATCH", 2)
    labels = torch.tensor([0, 4, 2, 1, 1])
    found = scores_of(graph, name, data=as_batches((images, labels)))
    expected = contributions(
        model, images, lambda logits: F.cross_entropy(logits, labels, reduction="sum")
    )
    for group, per_image in expected.items():
        np.testing.assert_allclose(found[group], reduce(per_image), atol=1e-12)
        assert np.abs(per_image).max() > 1e-4


def read_activations(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """Run the module and keep what the consumers of each group read, with plain hooks."""
    reads: dict[str, list[Tensor]] = {STREAM: [], INTERIOR: []}
    consumers = ((model.a[0], STREAM), (model.head.fc, STREAM), (model.b, INTERIOR))

    def hook(group: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            inputs[0].retain_grad()
            reads[group].append(inputs[0])

        return keep

    handles = [module.register_forward_pre_hook(hook(group)) for module, group in consumers]
    logits = model(x)
    for handle in handles:
        handle.remove()
    return logits, reads


@pytest.mark.parametrize("most", [2, 64])
def test_sensitivity_is_the_size_of_the_gradient_at_what_is_read(
    most: int,
    model: nn.Module,
    graph: DependencyGraph,
    images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "MAX_BATCH", most)
    labels = torch.tensor([0, 4, 2, 1, 1])
    found = scores_of(graph, "sensitivity", data=as_batches((images, labels)))
    logits, reads = read_activations(model, images)
    F.cross_entropy(logits, labels, reduction="sum").backward()
    for group, listed in reads.items():
        expected = sum(z.grad.abs().transpose(0, 1).flatten(1).sum(1) for z in listed) / 5
        np.testing.assert_allclose(found[group], expected.numpy())


@pytest.mark.parametrize("most", [2, 64])
def test_apoz_is_the_share_of_positive_activations_that_are_read(
    most: int,
    model: nn.Module,
    graph: DependencyGraph,
    images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "MAX_BATCH", most)
    found = scores_of(graph, "apoz", data=as_batches((images,)))
    _, reads = read_activations(model, images)
    for group, listed in reads.items():
        channels = [(z > 0).double().transpose(0, 1).flatten(1) for z in listed]
        np.testing.assert_allclose(found[group], torch.cat(channels, 1).mean(1).numpy())
        assert found[group].min() < found[group].max()


def test_leave_one_out_is_the_divergence_without_the_unit(
    model: nn.Module, graph: DependencyGraph, images: Tensor
) -> None:
    ranking = rank(graph, as_batches((images,)), criterion="leave-one-out")
    whole = model(images).log_softmax(1).detach()
    for unit in range(6):
        kept = graph.all_kept()
        kept[graph.group(INTERIOR).first + unit] = False
        without = run(cut(graph, kept), (images,))[0].log_softmax(1)
        lost = (whole.exp() * (whole - without)).sum(1).numpy()
        position = next(k for k, group in enumerate(graph.groups) if group.name == INTERIOR)
        assert ranking.groups[position].scores[unit] == pytest.approx(lost.mean())
        stderr = ranking.groups[position].stderr[unit]
        assert stderr == pytest.approx(lost.std(ddof=1) / np.sqrt(5))
    assert ranking.evaluations == graph.n_units + len(graph.groups)
    with pytest.raises(OptionError, match="takes no estimator or budget"):
        rank(graph, as_batches((images,)), criterion="leave-one-out", budget=3)


def test_what_is_read_is_found_where_heads_are_folded_into_the_batch() -> None:
    network = NETWORKS["TorchAttentionWeights"]
    graph = trace(network.make(), network.inputs())
    (x,) = batch_of(graph.example_inputs, 3, 0)
    together = rank(graph, as_batches((x,)), criterion="apoz").scores
    alone = [rank(graph, as_batches((x[k : k + 1],)), criterion="apoz").scores for k in range(3)]
    np.testing.assert_allclose(together, np.mean(alone, 0))


def test_signed_taylor_foretells_how_much_the_loss_rises(
    model: nn.Module, graph: DependencyGraph, images: Tensor
) -> None:
    """A unit that hurts has a negative score: higher = keep."""
    with torch.no_grad():
        model.b.weight.mul_(0.02)
    graph = trace(model, NETWORKS["Residual"].inputs())
    labels = torch.tensor([0, 4, 2, 1, 1])
    found = scores_of(graph, "taylor-signed", data=as_batches((images, labels)))[INTERIOR]
    before = F.cross_entropy(model(images), labels).item()
    rises = []
    for unit in range(6):
        weight = model.b.weight.detach().clone()
        with torch.no_grad():
            model.b.weight[:, unit] = 0
            rises.append(F.cross_entropy(model(images), labels).item() - before)
            model.b.weight.copy_(weight)
    np.testing.assert_allclose(found, rises, rtol=0.1, atol=1e-6)
    assert min(rises) < 0 < max(rises)


def test_without_labels_predictions_are_drawn(
    model: nn.Module, graph: DependencyGraph, images: Tensor
) -> None:
    data = as_batches((images,))
    first, second = (rank(graph, data, criterion="taylor", seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.scores, second.scores)
    assert (first.scores != rank(graph, data, criterion="taylor", seed=2).scores).any()
    # With many copies of every image, draws average to the Fisher information.
    many = as_batches((images.repeat(400, 1, 1, 1),))
    found = scores_of(graph, "fisher", data=many)[INTERIOR]
    chances = model(images).softmax(1).detach()
    expected = np.zeros(6)
    for label in range(5):
        per_image = contributions(
            model, images, lambda logits, label=label: -logits.log_softmax(1)[:, label].sum()
        )[INTERIOR]
        expected += (chances[:, label].numpy()[:, None] * per_image**2).mean(0)
    np.testing.assert_allclose(found, expected, rtol=0.35, atol=1e-9)
    np.testing.assert_allclose(found.sum(), expected.sum(), rtol=0.15)


def test_standard_errors_are_over_images(graph: DependencyGraph, images: Tensor) -> None:
    labels = torch.tensor([0, 4, 2, 1, 1])
    ranking = rank(graph, as_batches((images, labels)), criterion="taylor")
    alone = [
        rank(graph, as_batches((images[k : k + 1], labels[k : k + 1])), criterion="taylor").scores
        for k in range(5)
    ]
    found = np.concatenate([group.stderr for group in ranking.groups])
    np.testing.assert_allclose(ranking.scores, np.mean(alone, 0))
    np.testing.assert_allclose(found, np.std(alone, axis=0, ddof=1) / np.sqrt(5))


@pytest.mark.parametrize("name", available())
def test_every_criterion_leaves_everything_as_it_was(
    name: str, model: nn.Module, graph: DependencyGraph, images: Tensor
) -> None:
    before = {key: tensor.clone() for key, tensor in graph.program.module.state_dict().items()}
    rng, threads = torch.get_rng_state(), torch.get_num_threads()
    data = as_batches((images, torch.tensor([0, 4, 2, 1, 1])))
    first, second = (rank(graph, data, criterion=name, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.criterion == name
    assert np.isfinite(first.scores).all()
    after = graph.program.module.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert torch.equal(rng, torch.get_rng_state())
    assert threads == torch.get_num_threads()


@pytest.mark.parametrize("name", [name for name in available() if needs_data(name)])
def test_a_network_of_fixed_batch_scores_as_its_free_twin(name: str) -> None:
    torch.manual_seed(0)
    fixed, free = FixedBatch().double().eval(), AnyBatch().double().eval()
    free.load_state_dict(fixed.state_dict())
    x = torch.randn(5, 6, dtype=torch.float64)
    data = as_batches((x, torch.tensor([0, 2, 1, 1, 0])))
    if name.startswith("shapley") or name == "obs":
        # Which coalitions an image gets depends on the batch that it stands in; what fills up a
        # batch is left out of moments.
        data = as_batches((x[:2], torch.tensor([0, 2])))
    graphs = [trace(model, (x[:2],)) for model in (fixed, free)]
    assert [graph.program.dynamic_batch for graph in graphs] == [False, True]
    one, other = (rank(graph, data, criterion=name).scores for graph in graphs)
    np.testing.assert_allclose(one, other, rtol=1e-5)
