"""Whether calibration data fits a model: input shapes and the range of labels."""

from __future__ import annotations

import torch

from graphprune.data.batches import CalibrationBatches
from graphprune.errors import DataError


def check_against(
    batches: CalibrationBatches,
    n_classes: int | None,
    input_shapes: tuple[tuple[int, ...], ...],
) -> None:
    """Check that a model can be evaluated on the data.

    Args:
        batches: The data.
        n_classes: How many classes the model's output has; None if it is no classifier.
        input_shapes: What the model takes, without the batch.

    Raises:
        DataError: An input has another shape, or a label is out of range.
    """
    given = batches.input_shapes
    if given != tuple(tuple(shape) for shape in input_shapes):
        raise DataError(
            f"the data ({batches.source}) gives {_listed(given)}, the model takes "
            f"{_listed(input_shapes)}",
            hint="change the data with --resize, or the model's input with --input-shape",
        )
    if n_classes is not None and batches.has_labels:
        _require_in_range(batches, n_classes)


def _require_in_range(batches: CalibrationBatches, n_classes: int) -> None:
    labels = torch.cat([batch.labels for batch in batches if batch.labels is not None])
    outside = (labels >= n_classes).nonzero().flatten()
    if len(outside):
        index = int(outside[0])
        raise DataError(
            f"image {index} of the data ({batches.source}) has the label {int(labels[index])}; "
            f"the model's {n_classes} outputs allow 0 to {n_classes - 1}",
            hint="check that model and data belong together",
        )


def _listed(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " and ".join("x".join(map(str, shape)) or "scalars" for shape in shapes)
