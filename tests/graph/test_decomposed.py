"""Decomposed graphs, as ``run_decompositions`` leaves them, have the groups of the whole ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import fx, nn

from graphprune.cost import CostModel
from graphprune.graph import DependencyGraph, trace
from graphprune.tracing import export_with_batch
from tests.helpers import assert_exact, double, randomize
from tests.networks import NETWORKS
from tests.traced import traced


def decomposed(model: nn.Module, inputs: tuple[Any, ...]) -> fx.GraphModule:
    """Return a network as core ATen ops alone."""
    program = export_with_batch(model, inputs).run_decompositions()
    module = program.module(check_guards=False)
    return fx.GraphModule(module, module.graph)  # one that can be put into evaluation mode


def assert_alike(whole: DependencyGraph, parts: DependencyGraph) -> None:
    """Check that two graphs have the same groups and costs."""
    assert {g.name: len(g) for g in parts.groups} == {g.name: len(g) for g in whole.groups}
    costs = [CostModel(graph).total(graph.all_kept()) for graph in (whole, parts)]
    assert costs[0] == costs[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_exact_and_grouped_as_whole(name: str) -> None:
    network = NETWORKS[name]
    inputs = network.inputs()
    parts = assert_exact(decomposed(network.make(), inputs), inputs, seeds=(0,), batches=(3,))
    assert_alike(traced(name), parts)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v3_small",
        "vit_b_16",
        "swin_t",
        "convnext_tiny",
        "densenet121",
        "shufflenet_v2_x0_5",
    ],
)
def test_classifier_is_exact_and_grouped_as_whole(name: str) -> None:
    options = {"image_size": 64} if name == "vit_b_16" else {}
    torch.manual_seed(0)
    model = randomize(torchvision.models.get_model(name, weights=None, **options)).double().eval()
    inputs = double((torch.randn(2, 3, 64, 64),))
    parts = assert_exact(decomposed(model, inputs), inputs, seeds=(0,), batches=(3,))
    assert not parts.unknown_ops
    assert_alike(trace(model, inputs), parts)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_bert_is_exact_and_grouped_as_whole() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=50,
    )
    torch.manual_seed(0)
    model = transformers.BertModel(config).double().eval()
    inputs = (torch.randint(0, 50, (2, 8)),)
    parts = assert_exact(decomposed(model, inputs), inputs, seeds=(0,), batches=(3,))
    assert not parts.unknown_ops
    assert_alike(trace(model, inputs), parts)
