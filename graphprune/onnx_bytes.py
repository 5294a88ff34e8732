"""ONNX files piece by piece, so that their weights are never all in memory at once.

Protobuf reads and writes messages whole, which takes two copies of what an ONNX file holds: its
bytes, and the message made of them. Here everything goes through protobuf but the numbers of large
weights. The encoding is that of https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import onnx

_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number

_VARINT, _LENGTH = 0, 2
"""Kinds of fields: a number, and bytes that follow their length."""

_FIXED = {1: 8, 5: 4}
"""Bytes of the kinds of fields that have a fixed size."""

LARGE = 1 << 10
"""Bytes of a weight beyond which its numbers are left in the file.

Shape inference looks at the numbers of some weights, shapes and axes, all of them smaller.
"""


@dataclass(frozen=True, kw_only=True)
class LargeWeight:
    """A weight whose numbers are made when they are written.

    Args:
        tensor: Its name, type and shape, without numbers.
        size: Bytes of its numbers.
        numbers: Returns them as ONNX files hold them.
    """

    tensor: onnx.TensorProto
    size: int
    numbers: Callable[[], bytes]


def write_with(model: onnx.ModelProto, weights: Sequence[LargeWeight], stream: IO[bytes]) -> None:
    """Write a model and the large weights that it lacks.

    Args:
        model: All but the weights; left without its graph.
        weights: They follow the weights that the model holds.
        stream: What is written to.
    """
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    starts = [_start_of(weight) for weight in weights]
    size = len(graph) + sum(map(len, starts)) + sum(weight.size for weight in weights)
    stream.write(model.SerializeToString() + _head(_GRAPH, size))
    stream.write(graph)
    for weight, start in zip(weights, starts, strict=True):
        numbers = weight.numbers()
        if len(numbers) != weight.size:
            raise ValueError(f"{weight.tensor.name} has {len(numbers)} bytes, not {weight.size}")
        stream.write(start)
        stream.write(numbers)


def read_outline(path: Path) -> onnx.ModelProto:
    """Read an ONNX file but for the numbers of its large weights.

    Those are declared to lie where they do, in a file beside the one read: in itself. Weights whose
    numbers do not fit their shape are read with them, for others to find the fault.

    Args:
        path: The file.

    Raises:
        Exception: It is no ONNX file; protobuf's and onnx's errors have no common base.
    """
    outline = onnx.ModelProto()
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            outline.ParseFromString(b"".join(_model(content, path.name)))
    except Exception:  # empty, cut short or not as expected: protobuf says what is wrong with it
        return onnx.load(path, load_external_data=False)
    return outline


def with_weights(outline: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return a model with all its numbers.

    Args:
        outline: What :func:`read_outline` returned.
        folder: Where the file lies.

    Raises:
        Exception: Numbers cannot be read; onnx's errors have no common base.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(outline)
    onnx.load_external_data_for_model(whole, str(folder))
    return whole


@dataclass(frozen=True, kw_only=True)
class _Field:
    """Where a field of a message lies: from its head to its end, and its content."""

    number: int
    kind: int
    start: int
    content: int
    end: int

    def holds(self, number: int) -> bool:
        """Whether it is the message or the bytes of this number."""
        return self.number == number and self.kind == _LENGTH


def _model(content: mmap.mmap, name: str) -> Iterator[bytes]:
    for field in _fields(content, 0, len(content)):
        if field.holds(_GRAPH):
            graph = b"".join(_graph(content, field, name))
            yield _head(_GRAPH, len(graph)) + graph
        else:
            yield content[field.start : field.end]


def _graph(content: mmap.mmap, graph: _Field, name: str) -> Iterator[bytes]:
    for field in _fields(content, graph.content, graph.end):
        outline = _weight(content, field, name) if field.holds(_INITIALIZER) else None
        if outline is None:
            yield content[field.start : field.end]
        else:
            yield _head(_INITIALIZER, len(outline)) + outline


def _weight(content: mmap.mmap, weight: _Field, name: str) -> bytes | None:
    """Return a weight that says where its numbers are; None if it is to be read as it is."""
    if weight.end - weight.content <= LARGE:
        return None
    fields = list(_fields(content, weight.content, weight.end))
    numbers = [field for field in fields if field.holds(_RAW_DATA)]
    if len(numbers) != 1:
        return None
    rest = b"".join(content[f.start : f.end] for f in fields if f is not numbers[0])
    tensor = onnx.TensorProto.FromString(rest)
    place, size = numbers[0].content, numbers[0].end - numbers[0].content
    if size <= LARGE or tensor.external_data or size != _expected(tensor):
        return None
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", place), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return bytes(tensor.SerializeToString())


def _expected(tensor: onnx.TensorProto) -> int | None:
    """Return how many bytes the numbers of a weight take; None if that is unknown."""
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, TypeError, ValueError):
        return None
    return None if dtype.hasobject else math.prod(tensor.dims) * int(dtype.itemsize)


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """Walk over the fields of a message.

    Raises:
        ValueError: It is damaged.
    """
    place = start
    while place < end:
        key, after = _read_varint(content, place)
        kind = key & 7
        if kind == _VARINT:
            _, stop = _read_varint(content, after)
        elif kind == _LENGTH:
            size, after = _read_varint(content, after)
            stop = after + size
        elif kind in _FIXED:
            stop = after + _FIXED[kind]
        else:
            raise ValueError(f"there is no field of kind {kind}")
        if stop > end:
            raise ValueError("a field ends after the message that holds it")
        yield _Field(number=key >> 3, kind=kind, start=place, content=after, end=stop)
        place = stop


def _read_varint(content: mmap.mmap, place: int) -> tuple[int, int]:
    """Return a number and the place after it."""
    value = 0
    for count, byte in enumerate(content[place : place + 10]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, place + count + 1
    raise ValueError("a number does not end")


def _start_of(weight: LargeWeight) -> bytes:
    """Return what stands before the numbers of a weight."""
    head: bytes = weight.tensor.SerializeToString() + _head(_RAW_DATA, weight.size)
    return _head(_INITIALIZER, len(head) + weight.size) + head


def _head(number: int, size: int) -> bytes:
    """Return what stands before the content of a field."""
    return _varint(number << 3 | _LENGTH) + _varint(size)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*made, value))
