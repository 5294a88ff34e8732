"""Performances against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from graphprune.errors import ModelError, OptionError
from graphprune.game.value import (
    NEEDS_LABELS,
    PERFORMANCES,
    accuracy,
    class_logits,
    log_likelihood,
    minus_cross_entropy,
    minus_kl,
    performance_named,
    sample_predictions,
)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(4, 1, 5, dtype=torch.float64)


@pytest.fixture
def reference() -> torch.Tensor:
    return torch.randn(4, 1, 5, dtype=torch.float64)


def test_kl(logits: torch.Tensor, reference: torch.Tensor) -> None:
    p, q = reference[:, 0].softmax(1), logits[:, 0].softmax(1)
    expected = -(p * (p / q).log()).sum(1)
    torch.testing.assert_close(minus_kl(logits, reference, None), expected)
    assert (expected < 0).all()
    assert (minus_kl(reference, reference, None) == 0).all()


def test_kl_is_the_mean_over_positions() -> None:
    logits, reference = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    alone = [minus_kl(logits[:, k : k + 1], reference[:, k : k + 1], None) for k in range(3)]
    torch.testing.assert_close(minus_kl(logits, reference, None), torch.stack(alone).mean(0))


def test_kl_of_one_output_is_that_of_gaussians() -> None:
    found = minus_kl(torch.tensor([[[3.0]]]), torch.tensor([[[1.0]]]), None)
    torch.testing.assert_close(found, torch.tensor([-2.0]))


def test_labelled_performances(logits: torch.Tensor, reference: torch.Tensor) -> None:
    labels = torch.tensor([0, 4, 2, 1])
    logs = logits[:, 0].log_softmax(1)[torch.arange(4), labels]
    torch.testing.assert_close(minus_cross_entropy(logits, reference, labels), logs)
    right = (logits[:, 0].argmax(1) == labels).double()
    torch.testing.assert_close(accuracy(logits, reference, labels), right)
    assert {"cross-entropy", "accuracy"} == NEEDS_LABELS


def test_higher_is_better_for_all() -> None:
    labels = torch.tensor([1, 1])
    good, bad = torch.tensor([[0.0, 9.0]] * 2)[:, None], torch.tensor([[9.0, 0.0]] * 2)[:, None]
    for performance in PERFORMANCES.values():
        assert (performance(good, good, labels) > performance(bad, good, labels)).all()


def test_names() -> None:
    assert performance_named("kl") is minus_kl
    with pytest.raises(OptionError, match="value 'loss' is none of kl, cross-entropy, accuracy"):
        performance_named("loss")


def test_logits_of_images_sequences_and_maps() -> None:
    assert class_logits([torch.ones(2, 7)]).shape == (2, 1, 7)
    assert class_logits([torch.ones(2, 3, 7)]).shape == (2, 3, 7)
    maps = torch.randn(2, 7, 4, 5)
    assert class_logits([maps]).shape == (2, 20, 7)
    torch.testing.assert_close(class_logits([maps])[1, 6], maps[1, :, 1, 1])
    assert class_logits([torch.ones(2, dtype=torch.int64), torch.ones(2, 3)]).shape == (2, 1, 3)
    assert class_logits([torch.ones(2, 7, dtype=torch.bfloat16)]).dtype == torch.float32


def test_outputs_without_predictions_are_refused() -> None:
    with pytest.raises(ModelError, match="no tensor of predictions"):
        class_logits([torch.ones(2), torch.ones(2, 3, dtype=torch.int64), "text"])


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("classes", [1, 4])
def test_squared_scores_average_to_the_curvature_of_the_divergence(
    positions: int, classes: int
) -> None:
    """Fisher information of the mean over positions, at the unpruned network."""
    reference = torch.randn(1, positions, classes, dtype=torch.float64)
    direction = torch.randn(1, positions, classes, dtype=torch.float64)
    gate = torch.zeros((), dtype=torch.float64, requires_grad=True)
    divergence = -minus_kl(reference + gate * direction, reference, None).sum()
    (first,) = torch.autograd.grad(divergence, gate, create_graph=True)
    (curvature,) = torch.autograd.grad(first, gate)
    generator = torch.Generator().manual_seed(0)
    squares = []
    for _ in range(3000):
        drawn = sample_predictions(reference, generator)
        likelihood = log_likelihood(reference + gate * direction, drawn).sum()
        squares.append(torch.autograd.grad(likelihood, gate)[0].square())
    sample = torch.stack(squares)
    error = sample.std().item() / math.sqrt(len(squares))
    assert abs(sample.mean().item() - curvature.item()) < 4 * error + 1e-9


def test_draws_follow_the_prediction_and_the_generator_only() -> None:
    reference = torch.tensor([[[0.0, math.log(3.0)]]]).expand(4000, 1, 2)
    before = torch.get_rng_state()
    drawn = sample_predictions(reference, torch.Generator().manual_seed(0))
    assert drawn.shape == (4000, 1)
    assert abs(drawn.double().mean().item() - 0.75) < 0.03
    assert torch.equal(before, torch.get_rng_state())
    again = sample_predictions(reference, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
    torch.testing.assert_close(
        log_likelihood(reference[:1], torch.tensor([[1]])),
        F.log_softmax(reference[0], -1)[0, 1:],
    )


# ---- classes that may be absent -----------------------------------------------------------------


def test_open_gates_change_nothing(logits: torch.Tensor, reference: torch.Tensor) -> None:
    gates, labels = torch.ones(1, 1, 5, dtype=torch.float64), torch.tensor([0, 4, 2, 1])
    for performance in PERFORMANCES.values():
        expected = performance(logits, reference, labels)
        torch.testing.assert_close(performance(logits, reference, labels, gates), expected)
    drawn = labels.unsqueeze(1)
    expected = log_likelihood(logits, drawn)
    torch.testing.assert_close(log_likelihood(logits, drawn, gates), expected)


def test_kl_without_some_classes(logits: torch.Tensor, reference: torch.Tensor) -> None:
    """Minus the divergence from p restricted to what is left, plus log of the probability left."""
    left = [0, 2, 3]
    gates = torch.zeros(1, 1, 5, dtype=torch.float64).index_fill(2, torch.tensor(left), 1.0)
    p, q = reference[:, 0].softmax(1)[:, left], logits[:, 0, left].softmax(1)
    mass = p.sum(1)
    restricted = p / mass[:, None]
    expected = mass.log() - (restricted * (restricted / q).log()).sum(1)
    torch.testing.assert_close(minus_kl(logits, reference, None, gates), expected)
    closest = minus_kl(reference, reference, None, gates)
    torch.testing.assert_close(closest, mass.log())


def test_labelled_performances_without_some_classes(logits: torch.Tensor) -> None:
    gates = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64).reshape(1, 1, 5)
    labels = torch.tensor([0, 2, 3, 0])
    masked = logits[:, 0].masked_fill(gates[0] == 0, -math.inf)
    expected = -F.cross_entropy(masked, labels, reduction="none")
    torch.testing.assert_close(minus_cross_entropy(logits, logits, labels, gates), expected)
    right = (masked.argmax(1) == labels).double()
    torch.testing.assert_close(accuracy(logits, logits, labels, gates), right)
    gone = torch.tensor([1, 4, 1, 4])
    assert (accuracy(logits, logits, gone, gates) == 0).all()
    assert torch.isneginf(minus_cross_entropy(logits, logits, gone, gates)).all()


def test_absent_classes_are_never_drawn() -> None:
    reference = torch.zeros(50, 2, 4)
    gates = torch.tensor([0.0, 1.0, 1.0, 0.0]).reshape(1, 1, 4)
    drawn = sample_predictions(reference, torch.Generator().manual_seed(0), gates)
    assert set(drawn.unique().tolist()) == {1, 2}


def test_gates_of_absent_classes_have_finite_derivatives() -> None:
    """Whatever an absent class's logit is, and whatever the reference thinks of it."""
    logits = torch.tensor([[[0.0, 500.0, -500.0, 1.0]]])
    reference = torch.tensor([[[0.0, 300.0, -300.0, 1.0]]])
    gates = torch.tensor([[[1.0, 0.0, 0.0, 1.0]]], requires_grad=True)
    value = minus_kl(logits, reference, None, gates) + log_likelihood(
        logits, torch.tensor([[3]]), gates
    )
    assert torch.isfinite(value).all()
    (slope,) = torch.autograd.grad(value.sum(), gates)
    assert torch.isfinite(slope).all()
