"""Where calibration data comes from and how its images are prepared."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*|.+\.py:[A-Za-z_][\w.]*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Everything needed to read the same data again.

    Args:
        spec: DATA as typed: an ``.npz``, ``.npy`` or ``.safetensors`` file, a folder of images,
            ``package.module:factory`` or ``path/file.py:factory``.
        mean: Per channel, subtracted from the images (after they are scaled to 0..1 if 8-bit).
        std: Per channel, divides the images.
        resize: Height and width to resize to, or one number for both; the aspect ratio is not
            kept and nothing is cropped.
        limit: Read this many images only: the first ones, which in a folder with classes means
            the first of every class, then the second of every class, and so on.
    """

    spec: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, int] | None = None
    limit: int | None = None

    @property
    def runs_code(self) -> bool:
        """Whether reading calls a factory, that is, runs the user's own code."""
        return _FACTORY.fullmatch(self.spec) is not None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width to resize to."""
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
