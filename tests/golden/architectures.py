"""Architectures with the number of units that follows from how they are built.

Every number here is worked out from the architecture's own table of widths, never from what
graphprune says of it. The classifier's outputs are pinned, so they count nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A torchvision classifier.

    Args:
        units: How many units it has, by hand.
        resolution: Of the images it is traced on.
        options: For its builder.
        slow: Tracing it takes more than a few seconds.
        rival: Why torch-pruning's coupling is not compared; '' where it is right.
    """

    units: int
    resolution: int = 64
    options: dict[str, Any] = field(default_factory=dict)
    slow: bool = False
    rival: str = ""

    def build(self, name: str) -> nn.Module:
        """Return the network with random weights."""
        torch.manual_seed(0)
        return torchvision.models.get_model(name, weights=None, **self.options).eval()


def _inception_a(pool: int) -> int:
    """1x1; 5x5 behind its reduction; two 3x3 behind theirs; behind the pooling."""
    return 64 + (48 + 64) + (64 + 96 + 96) + pool


def _inception_c(width: int) -> int:
    """1x1; 7x7 in two steps behind a reduction; 7x7 twice, likewise; behind the pooling."""
    return 192 + (2 * width + 192) + (4 * width + 192) + 192


# 1x1; 3x3 behind a reduction, split in two; two 3x3 behind one, split in two; behind the pooling.
_INCEPTION_E = 320 + (384 + 2 * 384) + (448 + 384 + 2 * 384) + 192

# 1x1, reduction and 3x3, reduction and 5x5, behind the pooling: of each of nine modules.
_GOOGLENET = [
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
]

_GROUPED = (
    "couples the layer in front of a grouped convolution with an input axis that the channel "
    "groups share, and leaves whole groups to its pruner"
)

ARCHITECTURES = {
    # A stream in each of four stages; two blocks in each, with one interior.
    "resnet18": Architecture(units=(64 + 128 + 256 + 512) + 2 * (64 + 128 + 256 + 512)),
    # The stem, since every stage begins with a projection; four streams; two interiors a block.
    "resnet50": Architecture(
        units=64 + (256 + 512 + 1024 + 2048) + 2 * (3 * 64 + 4 * 128 + 6 * 256 + 3 * 512),
        slow=True,
    ),
    # 32 channel groups are at least as many as channels in each, so whole groups go: 32 units in
    # each of 3 + 4 + 6 + 3 blocks.
    "resnext50_32x4d": Architecture(
        units=64 + (256 + 512 + 1024 + 2048) + (3 + 4 + 6 + 3) * 32, slow=True, rival=_GROUPED
    ),
    # A chain: every layer a group, up to the two hidden linear ones.
    "vgg11_bn": Architecture(units=64 + 128 + 2 * 256 + 4 * 512 + 2 * 4096, slow=True),
    "alexnet": Architecture(units=64 + 192 + 384 + 256 + 256 + 2 * 4096, slow=True),
    # Squeeze and two expansions in each fire module; four sizes of these, two of each.
    "squeezenet1_1": Architecture(
        units=64 + 2 * ((16 + 128) + (32 + 256) + (48 + 384) + (64 + 512))
    ),
    # 58 dense layers of a bottleneck (4 x 32) and 32 new channels; three transitions.
    "densenet121": Architecture(
        units=64 + (6 + 12 + 24 + 16) * (128 + 32) + (128 + 256 + 512), slow=True
    ),
    # Stem with its depthwise convolution; a stream per stage; expansions of 6 x what enters, to
    # which depthwise convolutions belong; the last convolution.
    "mobilenet_v2": Architecture(
        units=32
        + (16 + 24 + 32 + 64 + 96 + 160 + 320)
        + 6 * (16 + 24 + 24 + 2 * 32 + 32 + 3 * 64 + 64 + 2 * 96 + 96 + 2 * 160 + 160)
        + 1280,
        slow=True,
    ),
    # Stem with the first block's depthwise convolution; streams; expansions; squeezes (a quarter
    # of the expansion, to a multiple of 8); last convolution and hidden linear layer.
    "mobilenet_v3_small": Architecture(
        units=16
        + (16 + 24 + 40 + 48 + 96)
        + (72 + 88 + 96 + 2 * 240 + 120 + 144 + 288 + 2 * 576)
        + (8 + 24 + 2 * 64 + 32 + 40 + 72 + 2 * 144)
        + (576 + 1024)
    ),
    # The widths 32, 16, 24, 40, 80, 96, 192, 320 halved to multiples of 8; expansions of 3 x or 6 x
    # what enters a block.
    "mnasnet0_5": Architecture(
        units=(16 + 8)
        + (16 + 24 + 40 + 48 + 96 + 160)
        + 3 * (8 + 2 * 16 + 16 + 2 * 24)
        + 6 * (24 + 2 * 40 + 40 + 48 + 48 + 3 * 96 + 96)
        + 1280,
        slow=True,
    ),
    # As MobileNet v2, and in every block a squeeze to a quarter of what enters it.
    "efficientnet_b0": Architecture(
        units=32
        + (16 + 24 + 40 + 80 + 112 + 192 + 320)
        + 6 * (16 + 24 + 24 + 40 + 40 + 2 * 80 + 80 + 2 * 112 + 112 + 4 * 192)
        + (32 + 16 + 24 + 24 + 40 + 40 + 2 * 80 + 80 + 2 * 112 + 112 + 4 * 192) // 4
        + 1280,
        slow=True,
    ),
    # Stem and four streams. Channel groups of 16: of 2, 4 and 10 the columns go, 16 before and 16
    # behind the grouped convolution; 25 go whole.
    "regnet_x_400mf": Architecture(
        units=32 + (32 + 64 + 160 + 400) + (1 + 2 + 7) * (16 + 16) + 12 * 25,
        slow=True,
        rival=_GROUPED,
    ),
    # Channel groups of 8: of 6 the columns go, 13, 26 and 55 go whole; and squeezes to a quarter of
    # what enters a block.
    "regnet_y_400mf": Architecture(
        units=32
        + (48 + 104 + 208 + 440)
        + (1 * (8 + 8) + 3 * 13 + 6 * 26 + 6 * 55)
        + (32 + 48 + 2 * 104 + 104 + 5 * 208 + 208 + 5 * 440) // 4,
        rival=_GROUPED,
    ),
    # Channels go one by one through shuffles. In each stage's first unit three pointwise
    # convolutions of half the width, in the others two; depthwise ones follow what enters them.
    "shufflenet_v2_x0_5": Architecture(
        units=24
        + (3 + 2 * 3) * (48 // 2)
        + (3 + 2 * 7) * (96 // 2)
        + (3 + 2 * 3) * (192 // 2)
        + 1024,
        rival="stops with a ZeroDivisionError",
    ),
    "googlenet": Architecture(
        units=(64 + 64 + 192) + sum(map(sum, _GOOGLENET)),
        options={"init_weights": False, "aux_logits": False},
        slow=True,
    ),
    "inception_v3": Architecture(
        units=(32 + 32 + 64 + 80 + 192)
        + (_inception_a(32) + 2 * _inception_a(64))
        + (384 + (64 + 96 + 96))
        + (_inception_c(128) + 2 * _inception_c(160) + _inception_c(192))
        + ((192 + 320) + 4 * 192)
        + 2 * _INCEPTION_E,
        resolution=96,
        options={"init_weights": False, "aux_logits": False},
        slow=True,
    ),
    # One stream; 12 heads and a hidden layer in each of 12 blocks.
    "vit_b_16": Architecture(
        units=768 + 12 * (12 + 4 * 768), options={"image_size": 64}, slow=True
    ),
    # A stream per stage; in its blocks a head for every 32 channels and a hidden layer of 4 x.
    "swin_t": Architecture(
        units=(96 + 192 + 384 + 768)
        + (2 * 3 + 2 * 6 + 6 * 12 + 2 * 24)
        + 4 * (2 * 96 + 2 * 192 + 6 * 384 + 2 * 768),
        resolution=224,
        slow=True,
        rival="does not finish in two minutes",
    ),
    # A stream per stage; hidden layers of 4 x. Depthwise convolutions belong to the stream.
    "convnext_tiny": Architecture(
        units=(96 + 192 + 384 + 768) + 4 * (3 * 96 + 3 * 192 + 9 * 384 + 3 * 768), slow=True
    ),
    # Two convolutions as a stem; a stream per stage; in a layer of width c the expansion (4c), a
    # squeeze (c / 4), and for windows and grids each a head for every 32 channels and a hidden
    # layer (4c); the classifier's hidden layer.
    "maxvit_t": Architecture(
        units=2 * 64
        + (64 + 128 + 256 + 512)
        + sum(
            n * (4 * c + c // 4 + 2 * (c // 32 + 4 * c))
            for n, c in ((2, 64), (2, 128), (5, 256), (2, 512))
        )
        + 512,
        resolution=224,
        slow=True,
        rival="does not finish in two minutes",
    ),
}
