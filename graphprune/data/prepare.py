"""Images as stored to images as the network wants them: layout, scale, size, normalisation."""

from __future__ import annotations

import torch

from graphprune.data.source import DataSource
from graphprune.data.validate import require_finite
from graphprune.errors import DataError

_CHANNELS = (1, 3)
_ALLOWED = "allowed are uint8 NHWC images and float NCHW arrays"


def prepared(x: torch.Tensor, source: DataSource, where: str) -> torch.Tensor:
    """Return floating NCHW images, resized and normalised as the source says.

    8-bit images are NHWC and are scaled to 0..1; floating ones are NCHW and taken as they are.

    Raises:
        DataError: Layout or dtype are wrong, or the normalisation does not fit the channels.
    """
    x = x if source.limit is None else x[: source.limit]
    if x.numel() == 0:
        raise DataError(
            f"{where} is empty (shape {tuple(x.shape)})", hint="give at least one image"
        )
    if x.dtype == torch.uint8:
        x = _from_bytes(x, where)
    elif x.is_floating_point():
        _require_channels_first(x, where)
        require_finite(x, where)
    else:
        raise DataError(
            f"{where} is {x.dtype}; {_ALLOWED}", hint="convert it with x.astype('float32')"
        )
    return normalised(_resized(x, source.size, where), source, where)


def normalised(x: torch.Tensor, source: DataSource, where: str) -> torch.Tensor:
    """Subtract the mean and divide by the standard deviation, per channel.

    Raises:
        DataError: Their lengths are not the number of channels, or a deviation is not positive.
    """
    for name, values in (("mean", source.mean), ("std", source.std)):
        if values is not None and len(values) not in (1, x.shape[1]):
            raise DataError(
                f"--{name} has {len(values)} values and {where} has {x.shape[1]} channels",
                hint="give one value per channel, separated by commas",
            )
    if source.std is not None and min(source.std) <= 0:
        raise DataError(
            f"--std contains {min(source.std):g}; it must be positive",
            hint="give the standard deviation of each channel",
        )
    if source.mean is not None:
        x = x - _per_channel(source.mean, x)
    if source.std is not None:
        x = x / _per_channel(source.std, x)
    return x


def _per_channel(values: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=x.dtype).reshape(1, -1, *(1 for _ in range(x.dim() - 2)))


def _from_bytes(x: torch.Tensor, where: str) -> torch.Tensor:
    if x.dim() != 4:
        raise DataError(
            f"{where} is uint8 of the shape {tuple(x.shape)}; {_ALLOWED}",
            hint="add a channel to grey images with x[..., None]",
        )
    if x.shape[-1] not in _CHANNELS and x.shape[1] in _CHANNELS:
        raise DataError(
            f"{where} is uint8 of the shape {tuple(x.shape)}, which looks like NCHW; {_ALLOWED}",
            hint="reorder it with x.transpose(0, 2, 3, 1)",
        )
    return x.permute(0, 3, 1, 2).to(torch.float32).div_(255).contiguous()


def _require_channels_first(x: torch.Tensor, where: str) -> None:
    if x.dim() < 2:
        raise DataError(
            f"{where} has the shape {tuple(x.shape)}; {_ALLOWED}", hint="the first dim is the batch"
        )
    if x.dim() == 4 and x.shape[-1] in _CHANNELS and x.shape[1] not in _CHANNELS:
        raise DataError(
            f"{where} is float of the shape {tuple(x.shape)}, which looks like NHWC; {_ALLOWED}",
            hint="reorder it with x.transpose(0, 3, 1, 2)",
        )


def _resized(x: torch.Tensor, size: tuple[int, int] | None, where: str) -> torch.Tensor:
    if size is None or tuple(x.shape[2:]) == size:
        return x
    if x.dim() != 4:
        raise DataError(f"--resize needs images, and {where} has the shape {tuple(x.shape)}")
    if min(size) < 1:
        raise DataError(f"--resize is {size[0]}x{size[1]}", hint="give at least 1 pixel")
    return torch.nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True)
