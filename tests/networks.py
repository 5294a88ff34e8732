"""Small networks, one coupling each, with the groups that they must have.

The expected groups are worked out by hand from the architecture: name of the first producing
parameter -> number of units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphprune.graph import DependencyGraph, trace
from tests.helpers import randomize


@dataclass(frozen=True)
class Network:
    """A network under test.

    Args:
        build: Makes the module; seeded by the caller.
        inputs: Makes example inputs.
        groups: Expected group sizes by name.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    groups: dict[str, int]

    def make(self) -> nn.Module:
        """Build the network with seeded weights and random norm statistics, in float64."""
        torch.manual_seed(0)
        return randomize(self.build()).double().eval()


NETWORKS: dict[str, Network] = {}


@cache
def traced(name: str) -> DependencyGraph:
    """Return the graph of a network; shared by all tests of a process, which do not change it."""
    network = NETWORKS[name]
    return trace(network.make(), network.inputs())


def image(*shape: int) -> Callable[[], tuple[Any, ...]]:
    """Return a maker of one random input of this shape, batch of two."""
    return lambda: (torch.randn(2, *shape, dtype=torch.float64),)


def tokens(length: int, vocabulary: int) -> Callable[[], tuple[Any, ...]]:
    """Return a maker of token indices."""

    def make() -> tuple[Any, ...]:
        return ((torch.arange(2 * length) * 7 % vocabulary).reshape(2, length),)

    return make


def network(
    inputs: Callable[[], tuple[Any, ...]],
    groups: dict[str, int],
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a module class."""

    def register(build: type[nn.Module]) -> type[nn.Module]:
        NETWORKS[build.__name__] = Network(build, inputs, groups)
        return build

    return register


def conv_bn(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Head(nn.Module):
    """Global average pooling and a classifier."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


# ---- chains -------------------------------------------------------------------------------------


@network(image(6), {"0.weight": 8, "2.weight": 7})
class MLP(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 7), nn.Tanh(), nn.Dropout(0.5), nn.Linear(7, 3)
        )


@network(image(3, 8, 8), {"0.0.weight": 6, "1.0.weight": 4})
class FlattenLinear(nn.Sequential):
    """One channel owns a run of the linear layer's columns."""

    def __init__(self) -> None:
        super().__init__(
            conv_bn(3, 6), conv_bn(6, 4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
        )


@network(image(3, 12), {"0.weight": 6, "3.weight": 8})
class Conv1d(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(3, 6, 3, padding=1),
            nn.BatchNorm1d(6),
            nn.PReLU(6),
            nn.Conv1d(6, 8, 3, padding="same"),
            nn.MaxPool1d(2),
            nn.AvgPool1d(2),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )


@network(image(2, 4, 6, 6), {"0.weight": 6, "3.weight": 4})
class Conv3d(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(2, 6, 3, padding=1),
            nn.BatchNorm3d(6),
            nn.LeakyReLU(),
            nn.Conv3d(6, 4, 3),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )


@network(image(3, 4, 4), {"0.0.weight": 6, "1.weight": 5, "3.0.weight": 4})
class Transposed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            conv_bn(3, 6),
            nn.ConvTranspose2d(6, 5, 2, stride=2),
            nn.BatchNorm2d(5),
            conv_bn(5, 4),
            nn.ConvTranspose2d(4, 2, 2, stride=2),
        )


@network(image(3, 8, 8), {"0.weight": 8})
class InPlace(nn.Module):
    """In-place activations and additions."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("0", nn.Conv2d(3, 8, 3, padding=1))
        self.bn = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(getattr(self, "0")(x)), inplace=True)
        y = self.conv(x)
        y += x
        y.mul_(2)
        y.relu_()
        return self.head(y)


# ---- residual and concat ------------------------------------------------------------------------


@network(image(3, 8, 8), {"stem.0.weight": 8, "a.0.weight": 6})
class Residual(nn.Module):
    """The stream's channels, as everything that writes to it, are one group; interiors others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.a = conv_bn(8, 6)
        self.b = nn.Conv2d(6, 8, 3, padding=1)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(x + self.b(self.a(x))))


@network(image(3, 8, 8), {"conv1.weight": 8, "a1.weight": 8, "a2.weight": 16, "b2.weight": 8})
class PaddedShortcut(nn.Module):
    """The shortcut pads channels: stream channel c of stage 1 is channel c + 4 of stage 2.

    The outer 8 channels of stage 2 have no partner in stage 1: a group of their own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.a1 = nn.Conv2d(8, 8, 3, padding=1)
        self.b1 = nn.Conv2d(8, 8, 3, padding=1)
        self.a2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.b2 = nn.Conv2d(16, 16, 3, padding=1)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(x + self.b1(F.relu(self.a1(x))))
        y = self.b2(F.relu(self.bn(self.a2(x))))
        return self.head(F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))))


@network(image(3, 8, 8), {"left.0.weight": 5, "right.0.weight": 7})
class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv_bn(3, 5), conv_bn(3, 7, 1)
        self.head = Head(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), self.right(x)], 1))


@network(image(3, 8, 8), {"conv.0.weight": 6})
class ConcatInput(nn.Module):
    """Concatenation with the raw input, whose channels stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 6)
        self.head = Head(9)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.conv(x), x], 1))


@network(image(3, 8, 8), {"conv.0.weight": 6, "mix.0.weight": 4})
class ConcatTwice(nn.Module):
    """One tensor twice: a channel goes from both places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = conv_bn(3, 6), conv_bn(12, 4)
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.mix(torch.cat([x, x], 1)))


@network(image(3, 8, 8), {"stem.weight": 6, "layers.0.1.weight": 4, "layers.1.1.weight": 4})
class Dense(nn.Module):
    """Every layer reads all before it, each through its own norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, 4, 3, padding=1))
            for width in (6, 10)
        )
        self.head = Head(14)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.head(x)


@network(image(3, 8, 8), {"stem.0.weight": 8, "deep.0.weight": 4})
class Split(nn.Module):
    """Half of the channels pass, the other half joins a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = conv_bn(3, 8), conv_bn(4, 4)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        return self.head(torch.cat([left, self.deep(right)], 1))


@network(image(3, 8, 8), {"stem.0.weight": 12, "a.weight": 6, "b.weight": 6})
class SplitUneven(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(4, 6, 1)
        self.head = Head(17)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.stem(x).split([3, 4, 5], 1)
        return self.head(torch.cat([self.a(a), self.b(b), c], 1))


@network(
    image(3, 8, 8), {"down.0.weight": 6, "deep.0.weight": 8, "up.weight": 6, "last.0.weight": 5}
)
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = conv_bn(3, 6), conv_bn(6, 8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.last = conv_bn(12, 5)
        self.out = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        deep = self.deep(F.max_pool2d(skip, 2))
        x = self.last(torch.cat([skip, self.up(deep)], 1))
        return F.interpolate(self.out(x), scale_factor=2, mode="bilinear")


@network(image(3, 8, 8), {"stem.0.weight": 6, "deep.0.weight": 8, "top.weight": 6})
class Pyramid(nn.Module):
    """Top-down additions of a feature pyramid, with several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = conv_bn(3, 6), conv_bn(6, 8)
        self.lateral, self.top = nn.Conv2d(6, 6, 1), nn.Conv2d(8, 6, 1)
        self.out = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        c1 = self.stem(x)
        c2 = self.deep(F.avg_pool2d(c1, 2))
        p2 = self.top(c2)
        p1 = self.lateral(c1) + F.interpolate(p2, scale_factor=2.0, mode="nearest")
        return {"p1": self.out(p1), "p2": self.out(p2)}


@network(image(3, 8, 8), {"conv.weight": 4})
class Stacked(nn.Module):
    """Two branches stacked and summed: their channels go together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.block = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([self.conv(x), self.block(x)], 1).sum(1))


# ---- gates --------------------------------------------------------------------------------------


@network(image(3, 8, 8), {"conv.0.weight": 8, "reduce.weight": 3})
class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 8)
        self.reduce, self.expand = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True))))
        return self.head(x * gate.sigmoid().expand_as(x))


@network(image(3, 8, 8), {"conv.0.weight": 8, "fc1.weight": 4})
class Attend(nn.Module):
    """CBAM: channel gates, then a spatial gate from the channels' mean and maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 8)
        self.fc1, self.fc2 = nn.Linear(8, 4), nn.Linear(4, 8)
        self.spatial = nn.Conv2d(2, 1, 3, padding=1)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        mean, peak = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        gates = [self.fc2(F.relu(self.fc1(pooled.flatten(1)))) for pooled in (mean, peak)]
        x = x * torch.sigmoid(gates[0] + gates[1]).view(x.size(0), 8, 1, 1)
        where = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return self.head(x * torch.sigmoid(self.spatial(where)))


@network(image(5, 6), {"up.weight": 8})
class GLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.glu(self.up(x), -1))


@network(image(5, 6), {"up.weight": 8, "gate.weight": 10})
class SwiGLU(nn.Module):
    """Packed by chunk, then separate projections."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 16, bias=False), nn.Linear(8, 6, bias=False)
        self.gate, self.value = nn.Linear(6, 10), nn.Linear(6, 10)
        self.out = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        x = x + self.down(F.silu(gate) * value)
        return self.out(F.silu(self.gate(x)) * self.value(x))


# ---- grouped convolutions -----------------------------------------------------------------------


@network(image(3, 8, 8), {"conv.0.weight": 6, "point.0.weight": 5})
class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depth, self.point = conv_bn(3, 6), conv_bn(6, 6, 3, 6), conv_bn(6, 5, 1)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.point(self.depth(self.conv(x))))


@network(image(3, 8, 8), {"conv.0.weight": 6, "point.0.weight": 5})
class DepthwiseMultiplier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depth, self.point = conv_bn(3, 6), conv_bn(6, 18, 3, 6), conv_bn(18, 5, 1)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.point(self.depth(self.conv(x))))


@network(image(3, 8, 8), {"conv.0.weight": 4, "mix.0.weight": 5})
class GroupedWhole(nn.Module):
    """As many groups as channels in each: whole groups go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.grouped, self.mix = conv_bn(3, 16), conv_bn(16, 8, 3, 4), conv_bn(8, 5)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.grouped(self.conv(x))))


@network(image(3, 8, 8), {"conv.0.weight": 8, "grouped.0.weight": 6, "mix.0.weight": 5})
class GroupedColumns(nn.Module):
    """Few wide groups: every group loses the same columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.grouped, self.mix = conv_bn(3, 16), conv_bn(16, 12, 3, 2), conv_bn(12, 5)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.grouped(self.conv(x))))


@network(image(3, 8, 8), {"stem.0.weight": 12, "last.0.weight": 4})
class Shuffle(nn.Module):
    """Channels dealt out over two groups by view and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth, self.last = conv_bn(3, 12), conv_bn(12, 12, 3, 12), conv_bn(12, 4)
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.head(self.last(self.depth(F.channel_shuffle(x, 2))))


# ---- positions and channels ---------------------------------------------------------------------


@network(image(3, 4, 4), {"conv.weight": 3, "last.0.weight": 4})
class PixelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 12, 3, padding=1), conv_bn(3, 4)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(F.pixel_shuffle(self.conv(x), 2))
        return self.out(F.pixel_unshuffle(x, 2))


@network(image(3, 8, 8), {"conv.0.weight": 6, "last.weight": 5})
class SpaceToDepth(nn.Module):
    """Strided slices joined along the channels, as in YOLO's focus layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = conv_bn(3, 6), nn.Conv2d(24, 5, 1)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        parts = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.head(self.last(torch.cat(parts, 1)))


@network(image(3, 8, 8), {"conv.0.weight": 6, "fc.weight": 7})
class Permuted(nn.Module):
    """Channels last, a linear layer over them, flattened in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.out = conv_bn(3, 6), nn.Linear(6, 7), nn.Linear(7 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x), 2).permute(0, 2, 3, 1)
        return self.out(F.relu(self.fc(x)).movedim(-1, 1).reshape(x.size(0), -1))


@network(image(3, 8, 8), {"conv.0.weight": 6, "fc.weight": 5})
class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 6)
        self.fc = nn.Linear(6, 5)
        self.mix = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bchw,oc->bohw", self.conv(x), self.fc.weight)
        return torch.einsum("bohw,od->bd", x.relu(), self.mix)


@network(image(3, 8, 8), {"conv.0.weight": 6, "last.weight": 5})
class Reordered(nn.Module):
    """Flips, rolls, repeats and index tensors over axes that stay; channels pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = conv_bn(3, 6), nn.Conv2d(12, 5, 1)
        self.register_buffer("order", torch.tensor([3, 1, 0, 2, 7, 5, 4, 6]))
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flip(1).roll((1, 2), (2, 3)).repeat(1, 2, 1, 1)
        x = x.index_select(2, self.order)[:, :, :, self.order]
        return self.head(self.last(x).repeat_interleave(2, dim=2))


@network(image(3, 8, 8), {"conv.0.weight": 6, "last.weight": 5})
class Reindexed(nn.Module):
    """Channels permuted by a buffer, then every second one picked as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = conv_bn(3, 6), nn.Conv2d(9, 5, 1)
        self.register_buffer("order", torch.tensor([3, 1, 0, 2, 5, 4]))
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)[:, self.order]
        return self.head(self.last(torch.cat([x, x[:, ::2]], 1)))


# ---- norms --------------------------------------------------------------------------------------


@network(image(5, 6), {"up.weight": 8, "mid.weight": 7})
class LayerNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.mid = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 7)
        self.plain = nn.LayerNorm(7, elementwise_affine=False)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.plain(self.mid(self.norm(self.up(x)))))


class HandRMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


@network(image(5, 6), {"up.weight": 8, "mid.weight": 7})
class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.hand = nn.Linear(6, 8), HandRMSNorm(8)
        self.mid, self.norm = nn.Linear(8, 7), nn.RMSNorm(7)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.mid(self.hand(self.up(x)))))


@network(image(3, 8, 8), {"a.weight": 6, "b.weight": 4, "c.weight": 6})
class GroupNorm(nn.Module):
    """Two wide groups lose columns; four narrow groups go whole; one channel each goes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n1 = nn.Conv2d(3, 12, 3), nn.GroupNorm(2, 12)
        self.b, self.n2 = nn.Conv2d(12, 8, 3), nn.GroupNorm(4, 8)
        self.c, self.n3 = nn.Conv2d(8, 6, 3), nn.GroupNorm(6, 6)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n1(self.a(x)))
        x = F.relu(self.n2(self.b(x)))
        return self.head(F.relu(self.n3(self.c(x)) + 0.1))


@network(image(3, 8, 8), {"a.weight": 6, "b.weight": 5})
class InstanceNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n1 = nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True)
        self.b, self.n2 = nn.Conv2d(6, 5, 3), nn.InstanceNorm2d(5)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.n2(self.b(F.relu(self.n1(self.a(x)))))) + 0.1)


class StandardConv(nn.Conv2d):
    """A convolution whose weight is standardised over its inputs, as in timm."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, padding=1)


@network(image(3, 8, 8), {"a.weight": 6, "b.weight": 5})
class WeightStandardisation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = StandardConv(3, 6, 3), StandardConv(6, 5, 3)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).relu()).relu())


@network(image(3, 8, 8), {"stem.weight": 8, "up.weight": 10})
class GRN(nn.Module):
    """ConvNeXt's channels-last block with a global response norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up, self.down = nn.Linear(8, 10), nn.Linear(10, 8)
        self.gamma, self.beta = nn.Parameter(torch.randn(10)), nn.Parameter(torch.randn(10))
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.gelu(self.up(self.norm(self.depth(x).permute(0, 2, 3, 1))))
        power = y.norm(p=2, dim=(1, 2), keepdim=True)
        y = self.gamma * (y * (power / (power.mean(-1, keepdim=True) + 1e-6))) + self.beta + y
        return self.head(x + self.down(y).permute(0, 3, 1, 2))


@network(image(3, 8, 8), {"a.0.weight": 6, "b.0.weight": 5, "c.0.weight": 7})
class ChannelStatistics(nn.Module):
    """Softmax, mean, maximum, variance and logsumexp over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 6), conv_bn(6, 5), conv_bn(5, 7)
        self.head = Head(7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).softmax(1))
        x = x - x.mean(1, keepdim=True) + x.amax(1, keepdim=True) - x.amin(dim=1, keepdim=True)
        x = self.c(x / x.var(1, keepdim=True, correction=1).add(1).sqrt())
        x = x / (x.std(1, keepdim=True, correction=0) + 1) - x.logsumexp(1, keepdim=True)
        variance, mean = torch.var_mean(x, (1, 2), keepdim=True)
        return self.head(F.log_softmax((x - mean) / (variance + 1), dim=1))


# ---- attention ----------------------------------------------------------------------------------


@network(image(6, 8), {"embed.weight": 12, "qkv.weight": 3, "up.weight": 10})
class PackedAttention(nn.Module):
    """Packed qkv and scaled dot-product attention, as in timm; three heads of four."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.n1, self.n2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.up, self.down = nn.Linear(12, 10), nn.Linear(10, 12)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, t, c = x.shape
        qkv = self.qkv(self.n1(x)).reshape(n, t, 3, 3, c // 3).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))
        return self.out((x + self.down(F.gelu(self.up(self.n2(x))))).mean(1))


@network(image(6, 8), {"embed.weight": 12, "q.weight": 3})
class ManualAttention(nn.Module):
    """Separate projections and a softmax written out, with a class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.position = nn.Parameter(torch.randn(1, 7, 12))
        self.q, self.k, self.v = (nn.Linear(12, 12) for _ in range(3))
        self.proj, self.out = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n = x.shape[0]
        x = torch.cat([self.token.expand(n, -1, -1), x], 1) + self.position
        q, k, v = (f(x).view(n, 7, 3, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(4)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, 7, 12)
        return self.out((x + self.proj(y))[:, 0])


@network(image(6, 8), {"embed.weight": 12, "attention.in_proj_weight": 3})
class TorchAttention(nn.Module):
    """nn.MultiheadAttention folds heads into the batch and tokens before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y, _ = self.attention(x, x, x, need_weights=False)
        return self.out((x + y).mean(1))


@network(image(6, 8), {"embed.weight": 12, "attention.in_proj_weight": 3})
class TorchAttentionWeights(nn.Module):
    """The other path of nn.MultiheadAttention: softmax(baddbmm / bmm) with the weights averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.attention = nn.MultiheadAttention(12, 3)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(x).transpose(0, 1)
        y, weights = self.attention(x, x, x)
        return self.out((x + y).mean(0)), weights


@network(image(6, 8), {"q.weight": 3})
class FoldedHeads(nn.Module):
    """Heads folded into the batch, batch outermost, and heads outermost."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 12) for _ in range(3))
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape

        def fold(y: Tensor) -> Tensor:
            return y.view(n, t, 3, 4).permute(2, 0, 1, 3).reshape(3 * n, t, 4)

        q, k, v = fold(self.q(x)), fold(self.k(x)), fold(self.v(x))
        y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        return self.out(y.view(3, n, t, 4).permute(1, 2, 0, 3).reshape(n, t, 12))


@network(image(8, 8, 6), {"embed.weight": 8, "qkv.weight": 2})
class Windows(nn.Module):
    """Shifted windows with a relative position bias, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.table = nn.Parameter(torch.randn(49, 2))
        at = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        delta = at[:, :, None] - at[:, None, :] + 3
        self.register_buffer("index", (delta[0] * 7 + delta[1]).flatten())
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-2, -2), (1, 2))
        y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        qkv = self.qkv(y).reshape(-1, 16, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * (c // 2) ** -0.5, qkv[1], qkv[2]
        bias = self.table[self.index].view(16, 16, 2).permute(2, 0, 1).contiguous()
        scores = (q @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1)
        y = self.proj((scores @ v).transpose(1, 2).reshape(-1, 16, c))
        y = y.view(-1, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return self.out((x + torch.roll(y, (2, 2), (1, 2))).mean((1, 2)))


# ---- weights used in several places -------------------------------------------------------------


@network(image(6), {"first.weight": 8, "middle.weight": 8})
class TiedWeights(nn.Module):
    """Two linear layers share one weight: their outputs go together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(6, 8)
        self.second.weight = self.first.weight
        self.middle, self.out = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.first(x), self.second(x.flip(1)).relu()], 1)
        return self.out(self.middle(y).relu())


@network(tokens(5, 11), {"embed.weight": 8, "up.weight": 10})
class TiedHead(nn.Module):
    """The embedding's table is the output layer's weight; the vocabulary stays."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.up, self.down = nn.Linear(8, 10), nn.Linear(10, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, index: Tensor) -> Tensor:
        x = self.embed(index)
        return self.head(x + self.down(F.gelu(self.up(x))))


@network(image(3, 8, 8), {"stem.0.weight": 6})
class UsedTwice(nn.Module):
    """One block called twice in a row: its inputs and outputs are the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = conv_bn(3, 6), conv_bn(6, 6)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.block(self.block(x)))


# ---- inputs, outputs, odds and ends -------------------------------------------------------------


def _two_inputs() -> tuple[Any, ...]:
    return (
        torch.randn(2, 3, 8, 8, dtype=torch.float64),
        {"extra": torch.randn(2, 4, dtype=torch.float64)},
    )


@network(_two_inputs, {"vector.weight": 6})
class TwoInputs(nn.Module):
    """An image and a vector meet in a sum; a tuple and a nested dict come out."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = conv_bn(3, 6), nn.Linear(4, 6)
        self.head, self.other = Head(6), nn.Linear(6, 2)

    def forward(self, x: Tensor, given: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        vector = self.vector(given["extra"])
        x = self.image(x) + vector[:, :, None, None]
        return self.head(x), {"other": [self.other(vector)]}


@network(image(3, 8, 8), {"conv.0.weight": 6, "last.0.weight": 5})
class MatrixExponential(nn.Module):
    """An op without a rule pins what enters it, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mid, self.last = conv_bn(3, 6), conv_bn(6, 4), conv_bn(4, 5)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(torch.matrix_exp(0.1 * self.mid(self.conv(x)))))


@network(image(4, 4), {"up.weight": 6})
class Inverted(nn.Module):
    """A matrix inverse pins its matrix; the rest is pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(4, 4)
        self.up, self.out = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.make(x) * 0.01 + torch.eye(4, dtype=x.dtype)
        return self.out(self.up(torch.linalg.inv(matrix)))


@network(image(3, 8, 8), {"conv.weight": 6, "last.weight": 2})
class Squeezed(nn.Module):
    """Pooled to one position, squeezed, and given back its dims."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_max_pool2d(self.conv(x), 1).squeeze()
        x = self.last(x[:, :, None, None]).squeeze(-1).squeeze(-1).squeeze(1)
        return self.fc(x.unsqueeze(1).unflatten(2, (2, 2)).flatten(1))
