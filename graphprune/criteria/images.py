"""The images that a criterion is given: the user's, as the network takes them, or made-up ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils import _pytree as pytree

from graphprune.data import CalibrationBatches, check_against, synthetic
from graphprune.errors import DataError
from graphprune.game.value import class_logits
from graphprune.graph import DependencyGraph

SYNTHETIC_IMAGES = 32
"""Inputs drawn where a criterion needs some and none are given."""


def fitting_images(
    graph: DependencyGraph, data: CalibrationBatches | None, seed: int, *, needed: bool
) -> CalibrationBatches | None:
    """Return data of the network's shapes and dtype; synthetic where it is needed and missing."""
    inputs = [x for x in pytree.tree_leaves(graph.example_inputs) if isinstance(x, torch.Tensor)]
    shapes = tuple(tuple(x.shape[1:]) for x in inputs)
    if data is None:
        return _made_up(inputs, shapes, seed) if needed else None
    check_against(data, _n_classes(graph) if needed and data.has_labels else None, shapes)
    floating = next((x.dtype for x in inputs if x.is_floating_point()), None)
    return data.to(dtype=floating)


def _made_up(
    inputs: Sequence[torch.Tensor], shapes: tuple[tuple[int, ...], ...], seed: int
) -> CalibrationBatches:
    if not all(x.is_floating_point() for x in inputs):
        raise DataError(
            "the network takes integer inputs, which cannot be made up",
            hint="give calibration data with --data",
        )
    return synthetic(shapes, n_images=SYNTHETIC_IMAGES, dtype=inputs[0].dtype, seed=seed)


def _n_classes(graph: DependencyGraph) -> int:
    with torch.inference_mode():
        outputs = graph.program.module(*graph.example_inputs)
    return int(class_logits(pytree.tree_leaves(outputs)).shape[-1])
