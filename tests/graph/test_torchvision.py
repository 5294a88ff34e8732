"""torchvision's classifiers at a small resolution: masked = pruned = zeroed slices."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from tests.helpers import assert_exact, randomize

pytestmark = pytest.mark.slow

# name -> (resolution, groups, units); stages by hand: a stream a stage, an interior a block, ...
MODELS: dict[str, tuple[int, int, int]] = {
    # One stream per stage (64 + 128 + 256 + 512); one interior per block (2 in each of 4 stages).
    "resnet18": (64, 12, 960 + 2 * 960),
    "densenet121": (64, 1 + 2 * 58 + 3, 64 + 58 * (128 + 32) + 128 + 256 + 512),
    "mobilenet_v3_small": (64, 0, 0),
    "googlenet": (96, 0, 0),
    "shufflenet_v2_x0_5": (64, 0, 0),
    "squeezenet1_0": (64, 0, 0),
    "efficientnet_b0": (64, 0, 0),
    "regnet_y_400mf": (64, 0, 0),
    "vgg11_bn": (64, 8 + 2, 64 + 128 + 2 * 256 + 4 * 512 + 2 * 4096),
    "vit_b_16": (64, 0, 0),
    "swin_t": (64, 0, 0),
    "convnext_tiny": (64, 0, 0),
}


def build(name: str, resolution: int) -> nn.Module:
    options: dict[str, object] = {"init_weights": False} if name == "googlenet" else {}
    if name == "vit_b_16":
        options["image_size"] = resolution
    torch.manual_seed(0)
    return randomize(torchvision.models.get_model(name, weights=None, **options))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_classifier_is_exact(name: str) -> None:
    resolution, n_groups, n_units = MODELS[name]
    model = build(name, resolution)
    inputs = (torch.randn(2, 3, resolution, resolution),)
    graph = assert_exact(model, inputs, seeds=(0,), batches=(2, 3))
    assert not graph.unknown_ops
    if n_groups:
        assert (len(graph.groups), graph.n_units) == (n_groups, n_units)
