"""Networks of which one pass cannot give every image a coalition of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Tokens(nn.Module):
    """Learned tokens pass layers of their own, which run once for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, 6))
        self.up, self.down = nn.Linear(6, 5), nn.Linear(5, 6)
        self.one, self.two = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        learned = self.down(F.gelu(self.up(self.tokens)))
        return self.two(F.gelu(self.one(x * learned)))


class FixedBatch(nn.Module):
    """Takes batches of two only."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.one(x))
        return self.two(hidden.reshape(2, 5))


class AnyBatch(FixedBatch):
    """The same for any batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.one(x)))


class Gaussian(nn.Module):
    """Linear with one output: a game whose values are known in closed form."""

    def __init__(self, width: int = 6, scale: float = 0.1) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, width), nn.Linear(width, 1)
        with torch.no_grad():
            self.two.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))
