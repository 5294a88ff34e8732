"""Calibration batches: what every later stage is fed, however the data was given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from graphprune.data.validate import require_inputs, require_labels
from graphprune.errors import DataError

_BATCH_SIZE = 64
_FORMS = "tensors (x, y) or (x,), or an iterable of such batches, e.g. a DataLoader"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some images and their labels.

    Args:
        inputs: One tensor per model input, the batch first.
        labels: Class numbers, int64 of shape (N,), or None.
        reference: Logits (N, positions, classes) of the network to be faithful to, where that is
            not the network at hand: while pruning in steps, the unpruned one's.
    """

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor | None = None
    reference: torch.Tensor | None = None

    @property
    def n_images(self) -> int:
        """How many images the batch holds."""
        return int(self.inputs[0].shape[0])


@dataclass(frozen=True, kw_only=True)
class CalibrationBatches:
    """All calibration data, in batches.

    Args:
        batches: At least one, none empty, all of the same kind.
        n_images: Images in all of them.
        has_labels: Whether every batch has labels.
        source: Where they came from, for people: a file's name, "given tensors", "synthetic".
        sha256: Hash of the content, however it is cut into batches. `to` keeps it, because
            converted data is still the data that was given.
    """

    batches: tuple[Batch, ...]
    n_images: int
    has_labels: bool
    source: str
    sha256: str

    def __iter__(self) -> Iterator[Batch]:
        """Go through the batches."""
        return iter(self.batches)

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of one image for every input, without the batch."""
        return tuple(tuple(value.shape[1:]) for value in self.batches[0].inputs)

    def rebatched(self, size: int) -> CalibrationBatches:
        """Return the same data in batches of ``size``; the last may be smaller."""
        return replace(self, batches=tuple(_split(_joined(self.batches), size)))

    def head(self, n_images: int) -> CalibrationBatches:
        """Return the first ``n_images``, or everything if there are fewer."""
        kept: list[Batch] = []
        left = n_images
        for batch in self.batches:
            if left <= 0:
                break
            kept.append(_sliced(batch, 0, left))
            left -= batch.n_images
        return _collected(kept, source=self.source)

    def split(
        self, n_held_out: int, *, seed: int = 0
    ) -> tuple[CalibrationBatches, CalibrationBatches]:
        """Part the images at random: those left, and ``n_held_out`` held out, each in its order.

        Args:
            n_held_out: How many to hold out, fewer than there are.
            seed: Equal seeds hold out the same.

        Raises:
            DataError: Nothing would be left, or nothing held out.
        """
        if not 0 < n_held_out < self.n_images:
            raise DataError(
                f"cannot hold {n_held_out} of {self.n_images} images out",
                hint="give more calibration images",
            )
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.n_images, generator=generator)
        size, whole = self.batches[0].n_images, _joined(self.batches)
        rest, held = (
            _collected(list(_split(_picked(whole, part.sort().values), size)), source=self.source)
            for part in (order[n_held_out:], order[:n_held_out])
        )
        return rest, held

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> CalibrationBatches:
        """Return the data on ``device``, its floating inputs as ``dtype``; labels stay int64."""
        return replace(self, batches=tuple(_moved(batch, dtype, device) for batch in self.batches))


def as_batches(data: object, *, batch_size: int = _BATCH_SIZE) -> CalibrationBatches:
    """Turn what a caller calls data into calibration batches.

    Args:
        data: ``(x, y)`` or ``(x,)`` tensors, a lone ``x``, an iterable of such batches, or
            `CalibrationBatches`, which are returned as they are. Of a tuple with more than two
            tensors the last is the labels if it looks like labels, and the others are inputs.
        batch_size: For tensors; an iterable keeps its own batches.

    Raises:
        DataError: It is none of these, is empty, or contains what no network can use.
    """
    if isinstance(data, CalibrationBatches):
        return data
    if isinstance(data, torch.Tensor | Batch) or _is_one_tuple(data):
        whole = _as_batch(data, "data")
        return _collected(list(_split(whole, batch_size)), source="given tensors")
    if isinstance(data, str | bytes | dict) or not isinstance(data, Iterable):
        hint = "read a file with load_data first" if isinstance(data, str) else None
        raise DataError(f"data is a {type(data).__name__}; allowed are {_FORMS}", hint=hint)
    batches = [_as_batch(item, f"batch {index}") for index, item in enumerate(data)]
    return _collected(batches, source=f"given {type(data).__name__}")


def synthetic(
    shapes: Sequence[tuple[int, ...]],
    *,
    n_images: int,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    batch_size: int = _BATCH_SIZE,
) -> CalibrationBatches:
    """Draw unlabelled inputs from a standard normal distribution.

    Args:
        shapes: One per model input, without the batch.
        n_images: How many to draw.
        dtype: Of the inputs; they are drawn in float32, so equal seeds agree across dtypes.
        seed: Equal seeds give equal inputs.
        batch_size: Images in one batch.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = tuple(torch.randn(n_images, *shape, generator=generator).to(dtype) for shape in shapes)
    return _collected(list(_split(Batch(inputs=inputs), batch_size)), source="synthetic")


def collected(
    inputs: torch.Tensor, labels: torch.Tensor | None, *, batch_size: int, source: str
) -> CalibrationBatches:
    """Cut one big tensor of images into calibration batches."""
    whole = Batch(inputs=(inputs,), labels=labels)
    return _collected(list(_split(whole, batch_size)), source=source)


def _is_one_tuple(data: object) -> bool:
    if not isinstance(data, tuple | list) or not data:
        return False
    if not all(isinstance(value, torch.Tensor) for value in data):
        return False
    # A list of tensors is a list of unlabelled batches, unless its second is the labels.
    return isinstance(data, tuple) or (len(data) == 2 and _looks_like_labels(data[1], data[0]))


def _looks_like_labels(value: torch.Tensor, x: torch.Tensor) -> bool:
    integer = not value.is_floating_point() and not value.is_complex()
    return integer and value.dim() == 1 and x.dim() > 0 and value.shape[0] == x.shape[0]


def _as_batch(item: object, where: str) -> Batch:
    if isinstance(item, Batch):
        inputs, labels = item.inputs, item.labels
    else:
        inputs, labels = _parts(item, where)
    if not inputs:
        raise DataError(f"{where} is empty", hint="give at least one image")
    for position, value in enumerate(inputs):
        require_inputs(value, f"{where}, input {position}" if len(inputs) > 1 else f"{where}, x")
    n_images = inputs[0].shape[0]
    if any(value.shape[0] != n_images for value in inputs):
        lengths = " and ".join(str(value.shape[0]) for value in inputs)
        raise DataError(f"{where} has inputs of {lengths} images", hint="give equally many of each")
    return Batch(inputs=inputs, labels=require_labels(labels, n_images, f"{where}, y"))


def _parts(item: object, where: str) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
    values = (item,) if isinstance(item, torch.Tensor) else item
    if not isinstance(values, tuple | list):
        raise DataError(f"{where} is a {type(item).__name__}; allowed are {_FORMS}")
    tensors = tuple(value for value in values if isinstance(value, torch.Tensor))
    if len(tensors) != len(values):
        kinds = ", ".join(type(value).__name__ for value in values)
        raise DataError(f"{where} holds {kinds}; allowed are {_FORMS}")
    if len(tensors) < 2:
        return tensors, None
    if len(tensors) == 2 or _looks_like_labels(tensors[-1], tensors[0]):
        return tensors[:-1], tensors[-1]
    return tensors, None


def _collected(batches: list[Batch], *, source: str) -> CalibrationBatches:
    if not batches:
        raise DataError(f"there are no images in the data ({source})", hint="give at least one")
    labelled = [batch.labels is not None for batch in batches]
    if any(labelled) and not all(labelled):
        raise DataError(
            f"batch {labelled.index(False)} has no labels and others have",
            hint="give labels for every batch or for none",
        )
    _require_equal_kinds(batches)
    return CalibrationBatches(
        batches=tuple(batches),
        n_images=sum(batch.n_images for batch in batches),
        has_labels=all(labelled),
        source=source,
        sha256=_hash(batches),
    )


def _require_equal_kinds(batches: list[Batch]) -> None:
    first = _kind(batches[0])
    for index, batch in enumerate(batches):
        if _kind(batch) != first:
            raise DataError(
                f"batch {index} holds {_kind(batch)} and batch 0 holds {first}",
                hint="give all batches the same shape and dtype",
            )


def _kind(batch: Batch) -> str:
    return " and ".join(
        f"{'x'.join(map(str, value.shape[1:])) or 'scalars'} of {value.dtype}"
        for value in batch.inputs
    )


def _split(batch: Batch, size: int) -> Iterator[Batch]:
    if size < 1:
        raise DataError(f"the batch size is {size}", hint="give at least 1")
    for start in range(0, batch.n_images, size):
        yield _sliced(batch, start, start + size)


def _sliced(batch: Batch, start: int, stop: int) -> Batch:
    return Batch(
        inputs=tuple(value[start:stop] for value in batch.inputs),
        labels=None if batch.labels is None else batch.labels[start:stop],
        reference=None if batch.reference is None else batch.reference[start:stop],
    )


def _picked(batch: Batch, index: torch.Tensor) -> Batch:
    return Batch(
        inputs=tuple(x[index.to(x.device)] for x in batch.inputs),
        labels=None if batch.labels is None else batch.labels[index.to(batch.labels.device)],
        reference=None
        if batch.reference is None
        else batch.reference[index.to(batch.reference.device)],
    )


def _joined(batches: Sequence[Batch]) -> Batch:
    labels = [batch.labels for batch in batches if batch.labels is not None]
    references = [batch.reference for batch in batches if batch.reference is not None]
    return Batch(
        inputs=tuple(
            torch.cat(values) for values in zip(*(b.inputs for b in batches), strict=True)
        ),
        labels=torch.cat(labels) if labels else None,
        reference=torch.cat(references) if references else None,
    )


def _moved(batch: Batch, dtype: torch.dtype | None, device: torch.device | str | None) -> Batch:
    return Batch(
        inputs=tuple(
            value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            for value in batch.inputs
        ),
        labels=None if batch.labels is None else batch.labels.to(device=device),
        reference=None if batch.reference is None else batch.reference.to(device=device),
    )


def _hash(batches: Sequence[Batch]) -> str:
    # Input by input over all batches, so that the cut into batches does not count.
    digest = hashlib.sha256()
    columns = [*zip(*(batch.inputs for batch in batches), strict=True)]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    for column in (*columns, labels):
        for index, value in enumerate(column):
            if index == 0:
                digest.update(f"\n{value.dtype} {tuple(value.shape[1:])} ".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
