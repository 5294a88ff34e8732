"""A small network and images for comparisons."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from graphprune.comparison import CompareOptions, Images, arrange
from graphprune.data import CalibrationBatches, as_batches
from graphprune.graph import DependencyGraph, trace

X = torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 4

OPTIONS = CompareOptions(
    criteria=("taylor", "l2"),
    ratios=(0.2, 0.5),
    seeds=(0, 1),
    repairs=("none", "batchnorm"),
    robustness=True,
    points=4,
    oracle=("auto",),
    sets=20,
)


def network(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    ).eval()


@cache
def graph_of(classes: int = 4) -> DependencyGraph:
    return trace(network(classes), (X[:2],))


def data(*, labels: bool = True) -> CalibrationBatches:
    return as_batches((X, Y) if labels else X, batch_size=16)


def images(*, labels: bool = True) -> Images:
    return arrange(data(labels=labels))
