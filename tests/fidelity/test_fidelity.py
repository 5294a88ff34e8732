"""Fidelity: a smaller network against the unpruned one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphprune.data import as_batches
from graphprune.errors import DataError
from graphprune.fidelity import Judge, rises
from graphprune.graph import trace
from graphprune.surgery import cut
from tests.helpers import random_kept

IMAGES = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(10) % 4


def network(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, classes)).eval()


def test_an_unpruned_network_is_perfect_whatever_it_is_judged_as():
    graph = trace(network(), (IMAGES[:2],))
    judge = Judge(graph, as_batches((IMAGES, LABELS), batch_size=4))
    whole = judge.judge(cut(graph, graph.all_kept()), graph.all_kept())
    assert whole == judge.unpruned()
    assert whole.kl == pytest.approx(0, abs=1e-7)
    assert whole.agreement == 1.0
    right = network()(IMAGES).argmax(-1) == LABELS
    assert whole.accuracy == pytest.approx(float(right.double().mean()))


def test_divergence_and_agreement_are_those_of_the_outputs():
    model = network()
    graph = trace(model, (IMAGES[:2],))
    kept = random_kept(graph, 0.4, 0)
    pruned = cut(graph, kept)
    found = Judge(graph, as_batches(IMAGES, batch_size=3)).judge(pruned, kept)
    p, q = model(IMAGES).log_softmax(-1), pruned(IMAGES).log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).detach()
    assert found.kl == pytest.approx(float(kl.mean()), rel=1e-5)
    assert found.kl_stderr == pytest.approx(float(kl.std()) / 10**0.5, rel=1e-4)
    agreeing = p.argmax(-1) == q.argmax(-1)
    assert found.agreement == pytest.approx(float(agreeing.double().mean()))
    assert found.accuracy is None
    assert found.n_images == 10


def test_classes_that_are_gone_cannot_be_predicted():
    model = network()
    graph = trace(model, (IMAGES[:2],), unpin_outputs=("*",))
    kept = graph.all_kept()
    last = graph.group("2.weight")
    kept[last.first + 1] = False
    found = Judge(graph, as_batches((IMAGES, LABELS))).judge(cut(graph, kept), kept)
    p = model(IMAGES).log_softmax(-1)
    left = np.array([0, 2, 3])
    # The closest prediction without the class is p restricted; the rest is what that costs.
    assert found.kl == pytest.approx(
        float(-p[:, left].exp().sum(-1).log().mean().detach()), rel=1e-4
    )
    best = torch.from_numpy(left)[p[:, left].argmax(-1)]
    assert found.accuracy == pytest.approx(float((best == LABELS).double().mean()))
    assert found.agreement == pytest.approx(float((best == p.argmax(-1)).double().mean()))


def test_one_output_has_no_classes_to_agree_on():
    graph = trace(network(classes=1), (IMAGES[:2],))
    found = Judge(graph, as_batches(IMAGES)).unpruned()
    assert (found.kl, found.agreement, found.accuracy) == (0.0, None, None)


class OfFixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.reshape(4, 6)).relu())


def test_networks_of_fixed_batch_are_judged_on_all_images():
    model = OfFixedBatch().eval()
    graph = trace(model, (IMAGES[:4],))
    assert not graph.program.dynamic_batch
    kept = random_kept(graph, 0.4, 0)
    pruned = cut(graph, kept)
    found = Judge(graph, as_batches(IMAGES)).judge(pruned, kept)
    assert found.n_images == 10
    padded = torch.cat([IMAGES, IMAGES[:2]])
    runs = [(model(padded[k : k + 4]), pruned(padded[k : k + 4])) for k in (0, 4, 8)]
    p, q = (torch.cat(each)[:10].log_softmax(-1) for each in zip(*runs, strict=True))
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean().detach()), rel=1e-5)


def test_outputs_that_are_not_finite_are_refused():
    model = network()
    with torch.no_grad():
        model[0].weight.fill_(torch.inf)
    graph = trace(model, (torch.zeros(2, 6),))
    with pytest.raises(DataError, match="not finite"):
        Judge(graph, as_batches(IMAGES))


def test_divergences_rise_if_images_say_so_clearly():
    assert not rises(torch.tensor([-1.0, 0.5, -2.0]))
    assert not rises(torch.tensor([-1.0, 1.1, 0.2]))
    assert rises(torch.tensor([1.0, 1.1, 0.2]))
    assert rises(torch.tensor([0.1, float("nan"), 0.2]))
    assert rises(torch.tensor([0.1]))
    assert not rises(torch.tensor([-0.1]))
    assert rises(torch.tensor([0.1, float("inf"), 0.2]))
