"""What to run an ONNX file on: random inputs of the shapes that the file declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphprune.errors import OptionError

Feed = Mapping[str, npt.NDArray[Any]]
"""Inputs of a file by name."""

Shape = tuple[int, ...]

_DTYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def feed_for(
    session: Any, *, batch: int | None, shapes: Sequence[Shape] = (), name: str = "the file"
) -> Feed:
    """Draw inputs for an onnxruntime session.

    Real numbers are standard normal; whole numbers are 0, which is a valid index of any table.

    Args:
        session: The onnxruntime session.
        batch: Samples; None for one, or for as many as the file fixes.
        shapes: Shapes without the batch, one for each input; none where the file declares them.
        name: What to call the file in errors.

    Raises:
        OptionError: A shape is unknown or contradicts the file's, or an input is no tensor that
            could be drawn.
    """
    inputs = session.get_inputs()
    if shapes and len(shapes) != len(inputs):
        raise OptionError(
            f"{len(shapes)} shapes were given and {name} takes {len(inputs)} inputs",
            hint="repeat --input-shape once for each input",
        )
    given: Sequence[Shape | None] = shapes or [None] * len(inputs)
    generator = np.random.default_rng(0)
    return {
        value.name: _drawn(
            value, _shape(value.name, value.shape, batch, shape, name), generator, name
        )
        for value, shape in zip(inputs, given, strict=True)
    }


def _shape(
    input_name: str, declared: Sequence[Any], batch: int | None, given: Shape | None, name: str
) -> Shape:
    """Return the shape of one input, batch first."""
    sizes = [size if isinstance(size, int) and size > 0 else None for size in declared]
    wanted = [batch, *(given if given is not None else [None] * (len(sizes) - 1))] if sizes else []
    if len(wanted) != len(sizes):
        raise OptionError(
            f"--input-shape has {len(wanted) - 1} dims and input {input_name} of {name} "
            f"{len(sizes) - 1} without the batch"
        )
    found = []
    for place, (fixed, asked) in enumerate(zip(sizes, wanted, strict=True)):
        if fixed is not None and asked not in (None, fixed):
            what = "--batch" if place == 0 else "--input-shape"
            raise OptionError(
                f"{what} says {asked} and {name} fixes dim {place} of input {input_name} to {fixed}"
            )
        size = asked if fixed is None else fixed
        if size is None and place:
            raise OptionError(
                f"{name} does not say how long dim {place} of input {input_name} is",
                hint="give the shape without the batch, e.g. --input-shape 3,224,224",
            )
        found.append(1 if size is None else size)
    return tuple(found)


def _drawn(value: Any, shape: Shape, generator: np.random.Generator, name: str) -> npt.NDArray[Any]:
    dtype = _DTYPES.get(value.type)
    if dtype is None:
        raise OptionError(
            f"input {value.name} of {name} is a {value.type}; only tensors of "
            f"{', '.join(kind[7:-1] for kind in _DTYPES)} can be drawn"
        )
    if np.issubdtype(dtype, np.floating):
        return generator.standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)
