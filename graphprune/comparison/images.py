"""Images: those that judge, and those that rank and repair; never the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from graphprune.data import Batch, CalibrationBatches, as_batches
from graphprune.errors import DataError, OptionError

JUDGING = 1 / 3
"""Share of the data that judges where no other data does."""

DRAWN = 3 / 4
"""Share of what is left that every seed draws."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """What ranks, repairs and judges.

    Args:
        pool: Images that rank and repair.
        n_drawn: How many of them every seed draws.
        judging: Images that judge; none of them is in the pool.
        notes: What the user should know.
    """

    pool: CalibrationBatches
    n_drawn: int
    judging: CalibrationBatches
    notes: tuple[str, ...] = ()

    def drawn(self, seed: int) -> CalibrationBatches:
        """Return the images of one seed: a random part of the pool."""
        if self.n_drawn == self.pool.n_images:
            return self.pool
        return self.pool.split(self.n_drawn, seed=seed)[1]


def arrange(
    data: CalibrationBatches,
    judging: CalibrationBatches | None = None,
    *,
    n_drawn: int | None = None,
    labels: bool = True,
    seed: int = 0,
) -> Images:
    """Part images into those that judge and those that do not.

    Args:
        data: Images to rank and repair with; a third of them judges where nothing else does.
        judging: Images to judge on; those that are also in ``data`` are left out of ``data``.
        n_drawn: How many images every seed draws; three quarters of the pool by default.
        labels: Let criteria see the labels; the judge does in any case.
        seed: Parts the data.

    Raises:
        DataError: There are too few images.
        OptionError: More images are to be drawn than there are.
    """
    notes: tuple[str, ...] = ()
    if judging is None:
        pool, judging = data.split(max(round(JUDGING * data.n_images), 1), seed=seed)
    else:
        pool = _without(data, judging)
        if pool.n_images < data.n_images:
            gone = data.n_images - pool.n_images
            notes = (f"{gone} images of the data also judge; they are left out of ranking",)
    if n_drawn is None:
        n_drawn = max(round(DRAWN * pool.n_images), 1)
    if not 0 < n_drawn <= pool.n_images:
        raise OptionError(
            f"{n_drawn} images cannot be drawn from {pool.n_images}",
            hint="give more data, or a smaller --calibration",
        )
    return Images(
        pool=pool if labels else _unlabelled(pool),
        n_drawn=n_drawn,
        judging=judging,
        notes=notes,
    )


def _unlabelled(data: CalibrationBatches) -> CalibrationBatches:
    batches = tuple(replace(batch, labels=None) for batch in data)
    return replace(data, batches=batches, has_labels=False)


def _without(data: CalibrationBatches, others: CalibrationBatches) -> CalibrationBatches:
    """Return the images that are not among others.

    Raises:
        DataError: There are none.
    """
    known = {digest for batch in others for digest in _digests(batch)}
    kept, gone = [], 0
    for batch in data:
        fresh = torch.tensor([digest not in known for digest in _digests(batch)])
        gone += int((~fresh).sum())
        if fresh.any():
            labels = None if batch.labels is None else batch.labels[fresh]
            kept.append(Batch(inputs=tuple(x[fresh] for x in batch.inputs), labels=labels))
    if not gone:
        return data
    if not kept:
        raise DataError(
            "all images that should rank are among those that judge",
            hint="give other images with --eval-data, or leave it out: a third of --data judges",
        )
    return replace(as_batches(kept), source=data.source)


def _digests(batch: Batch) -> Iterator[bytes]:
    for place in range(batch.n_images):
        digest = hashlib.sha256()
        for x in batch.inputs:
            flat = x[place].detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        yield digest.digest()
