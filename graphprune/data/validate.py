"""What inputs and labels must be, whoever hands them in."""

from __future__ import annotations

import torch

from graphprune.errors import DataError

_LABELS = "labels are whole class numbers from 0, one per image"
_LABEL_DTYPES = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)


def require_inputs(value: torch.Tensor, where: str) -> None:
    """Check one tensor of model inputs.

    Raises:
        DataError: It has no batch, is empty, is 8-bit, or contains NaN or infinity.
    """
    if value.dim() < 2 and value.is_floating_point():
        raise DataError(
            f"{where} has the shape {tuple(value.shape)}; the first dim must be the batch",
            hint="add it with x[None]",
        )
    if value.dim() == 0 or value.numel() == 0:
        raise DataError(
            f"{where} is empty (shape {tuple(value.shape)})", hint="give at least one image"
        )
    if value.dtype in (torch.uint8, torch.bool) or value.is_complex():
        raise DataError(
            f"{where} is {value.dtype}; tensors are passed to the model as they are",
            hint="give normalised float NCHW tensors",
        )
    require_finite(value, where)


def require_finite(value: torch.Tensor, where: str) -> None:
    """Check that a tensor contains numbers only, and say which images do not.

    Raises:
        DataError: It contains NaN or infinity.
    """
    if not value.is_floating_point() or bool(torch.isfinite(value).all()):
        return
    bad = (~torch.isfinite(value)).flatten(1).any(dim=1).nonzero().flatten()
    raise DataError(
        f"{where} contains NaN or infinity in {len(bad)} of {value.shape[0]} images, "
        f"the first is image {int(bad[0])}",
        hint="leave these images out",
    )


def require_labels(labels: torch.Tensor | None, n_images: int, where: str) -> torch.Tensor | None:
    """Check labels and return them as int64.

    Raises:
        DataError: They are not one non-negative integer per image.
    """
    if labels is None:
        return None
    if labels.dtype not in _LABEL_DTYPES:
        raise DataError(
            f"{where} is {labels.dtype}; {_LABELS}", hint="convert them with y.astype('int64')"
        )
    if labels.dim() != 1:
        raise DataError(
            f"{where} has the shape {tuple(labels.shape)}; {_LABELS}",
            hint="turn one-hot labels into class numbers with y.argmax(1)",
        )
    if labels.shape[0] != n_images:
        raise DataError(
            f"{where} has {labels.shape[0]} labels for {n_images} images",
            hint="give one label per image",
        )
    converted = labels.to(torch.int64)
    if n_images and int(converted.min()) < 0:
        index = int((converted < 0).nonzero()[0])
        raise DataError(
            f"{where} has the label {int(converted[index])} at image {index}; {_LABELS}",
            hint="leave out images without a class",
        )
    return converted
