"""Make the pictures of the concept pages: small networks, one coupling each, drawn by graphprune.

Run it from the repository root: ``python docs/make_pictures.py``. The pictures are committed; a
test checks that they are what this script makes.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphprune.drawing import draw
from graphprune.files import write_text
from graphprune.graph import trace

ASSETS = Path(__file__).parent / "assets"


def conv_bn(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Return convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class ResidualNet(nn.Module):
    """Two residual blocks: all that writes to the stream is one group."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.inner1, self.outer1 = conv_bn(16, 8), nn.Conv2d(8, 16, 3, padding=1)
        self.inner2, self.outer2 = conv_bn(16, 12), nn.Conv2d(12, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images."""
        x = self.stem(x)
        x = F.relu(x + self.outer1(self.inner1(x)))
        x = F.relu(x + self.outer2(self.inner2(x)))
        return self.head(x.mean((2, 3)))


class ConcatNet(nn.Module):
    """Two branches joined side by side: each keeps a group of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.left = conv_bn(12, 8, 1)
        self.right1, self.right2 = conv_bn(12, 6), conv_bn(6, 10)
        self.mix = conv_bn(18, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images."""
        x = self.stem(x)
        x = torch.cat([self.left(x), self.right2(self.right1(x))], 1)
        return self.head(self.mix(x).mean((2, 3)))


class GatedNet(nn.Module):
    """Squeeze and excitation: a second way computes a factor for every channel of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze, self.excite = nn.Linear(16, 4), nn.Linear(4, 16)
        self.project = nn.Conv2d(16, 12, 1)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images."""
        x = self.depthwise(self.stem(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return self.head(self.project(x * gate[:, :, None, None]).mean((2, 3)))


class AttentionNet(nn.Module):
    """One transformer block: heads, a hidden layer, and the stream that both write to."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 32)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.out = nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify sequences."""
        x = self.embed(x)
        y = self.norm1(x)
        q, k, v = (
            layer(y).unflatten(2, (4, 8)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


def pictures() -> dict[str, str]:
    """Return the SVG text of every picture by file name."""
    image, sequence = torch.zeros(2, 3, 16, 16), torch.zeros(2, 7, 12)
    networks = {
        "residual.svg": (ResidualNet(), image),
        "concat.svg": (ConcatNet(), image),
        "gated.svg": (GatedNet(), image),
        "attention.svg": (AttentionNet(), sequence),
    }
    return {name: draw(trace(model, (x,))) for name, (model, x) in networks.items()}


if __name__ == "__main__":
    for file, text in pictures().items():
        write_text(ASSETS / file, text)
