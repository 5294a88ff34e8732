"""Pruned networks in float32, ready to be exported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphprune.graph import DependencyGraph, Kept, trace
from graphprune.surgery import PrunedModel, cut
from tests.helpers import random_kept, randomize
from tests.networks import NETWORKS


@dataclass(frozen=True)
class Subject:
    """A network, its graph and what is left of it."""

    model: nn.Module
    graph: DependencyGraph
    kept: Kept

    @property
    def pruned(self) -> PrunedModel:
        """A fresh pruned network."""
        return cut(self.graph, self.kept)


class DictOutputs(nn.Module):
    """Ties, frozen weights, buffers of both kinds, a constant, dropout, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.b.weight = self.a.weight
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(12, 4)
        self.head.bias.requires_grad_(False)
        self.register_buffer("scale", torch.rand(6, 1, 1) + 1, persistent=False)
        self.register_buffer("shift", torch.rand(6, 1, 1))
        self.constant = torch.tensor(0.5)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.norm(self.stem(x)).relu()
        y = torch.cat([self.a(x) * self.scale, self.b(x.relu()) + self.shift], 1)
        pooled = self.drop(y.mean((2, 3)))
        return {
            "logits": self.head(pooled) * self.constant,
            "extra": (x[:, 0] * 0 + 1, pooled[:, :0]),
        }


class Trained(nn.Module):
    """Convolutions with BatchNorm and dropout, for training after pruning."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.fc(self.drop(x.mean((2, 3))))


OWN = {"DictOutputs": DictOutputs, "Trained": Trained}


@cache
def subject(name: str, dtype: torch.dtype = torch.float32) -> Subject:
    """Trace and prune a network by name; tests must not change what is shared."""
    torch.manual_seed(0)
    if name in OWN:
        model, inputs = randomize(OWN[name]()), (torch.randn(2, 3, 8, 8),)
    else:
        network = NETWORKS[name]
        model, inputs = network.make(), network.inputs()
    model = model.to(dtype).eval()
    graph = trace(model, in_dtype(inputs, dtype))
    return Subject(model, graph, random_kept(graph, 0.3, 0))


def in_dtype(inputs: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """Return inputs with their floating tensors in a dtype."""

    def of(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return pytree.tree_map(of, inputs)
