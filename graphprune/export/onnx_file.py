"""Pruned networks in ONNX files, with a dynamic batch and a note of where they come from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import onnx
import onnxscript.optimizer
import torch
from onnxscript import ir
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.onnx import ONNXProgram

from graphprune.errors import OptionError, TraceError
from graphprune.export.lowering import lowered
from graphprune.export.program import program_of
from graphprune.files import replacing
from graphprune.onnx_bytes import LARGE, LargeWeight, write_with
from graphprune.tracing import BATCH, quiet_export

METADATA_PREFIX = "graphprune."
"""What the keys of the file's ``metadata_props`` begin with."""

_OLDEST_OPSET = 18
"""The oldest that ``torch.onnx`` translates to."""

_LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights beyond which a file is too big for protobuf; the rest is for the graph."""


def export_onnx(
    model: nn.Module,
    path: Path | str,
    *,
    example_inputs: tuple[Any, ...] | None = None,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
    program: ExportedProgram | None = None,
) -> None:
    """Write a network to an ONNX file, whole or not at all.

    Inputs have the batch as their first dim, which is named ``batch``. Weights lie in the file
    itself; only beyond 2 GB they go to a second one beside it, named as this one with ``.data``
    (or ``.1.data`` and so on, where a file of that name is there: the old pair stays whole until
    the new one is).

    Args:
        model: A pruned network or any other; exported in evaluation mode.
        path: The file; it should end in ``.onnx``.
        example_inputs: Positional inputs with a batch of 2 or more; a pruned network knows its own.
        opset: Version of the ONNX operators; by default the one that ``torch.onnx`` recommends.
        metadata: Written into the file, each key with ``graphprune.`` before it.
        program: What :func:`graphprune.export.program_of` made of this network, to save the time.

    Raises:
        ArtifactError: The file cannot be written.
        ModelError: There are no example inputs.
        OptionError: The opset is too old, or unknown to this onnx.
        TraceError: ``torch.export`` or ``torch.onnx`` refuses the network.
    """
    _require_opset(opset)
    program = program_of(model, example_inputs) if program is None else program
    converted = _converted(program, opset)
    _name_batch(converted)
    _merge_ties(converted.model, program)
    _optimize(converted.model)
    _describe(converted.model, metadata or {})
    _write(converted.model, Path(path))


def _require_opset(opset: int | None) -> None:
    from onnx.defs import onnx_opset_version

    newest = onnx_opset_version()
    if opset is not None and not _OLDEST_OPSET <= opset <= newest:
        raise OptionError(
            f"opset {opset} cannot be written; allowed are {_OLDEST_OPSET} to {newest}",
            hint="leave it out to get the one that torch recommends",
        )


def _converted(program: ExportedProgram, opset: int | None) -> ONNXProgram:
    try:
        return _call_torch(lowered(program), opset)
    except Exception:  # something that only torch's own decomposition gets rid of
        pass
    try:
        return _call_torch(program, opset)
    except Exception as error:  # torch.onnx raises many unrelated types
        raise TraceError(
            f"torch.onnx cannot translate the network: {_reason(error)}",
            hint="save it as .pt2 instead, or replace the operator that it names",
        ) from error


def _reason(error: BaseException) -> str:
    """Return the first line of what went wrong first; torch.onnx wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text.strip()[:300]}"


def _call_torch(program: ExportedProgram, opset: int | None) -> ONNXProgram:
    with quiet_export(), torch.no_grad():
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, optimize=False, opset_version=opset
        )
    if made is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return made


def _name_batch(converted: ONNXProgram) -> None:
    """Give the batch its name, for which torch writes a symbol of its own."""
    for value in converted.model.graph.inputs:
        if (
            value.shape is not None
            and len(value.shape)
            and isinstance(value.shape[0], ir.SymbolicDim)
        ):
            converted.rename_axes({value.shape[0]: BATCH})
            return


def _merge_ties(model: ir.Model, program: ExportedProgram) -> None:
    """Write tied weights once."""
    first: dict[tuple[object, ...], ir.Value] = {}
    for name, tensor in _weights(program):
        value = model.graph.initializers.get(name)
        if value is None or not tensor.numel():
            continue
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        tied = first.setdefault(key, value)
        if tied is not value:
            value.replace_all_uses_with(tied)
            del model.graph.initializers[name]


def _weights(program: ExportedProgram) -> Iterator[tuple[str, Tensor]]:
    yield from program.named_parameters()
    yield from program.named_buffers()


def _optimize(model: ir.Model) -> None:
    # The pattern rewriter's time grows with the graph, so what is constant or unused goes first;
    # its second round (the default) finds nothing that onnxruntime would not.
    onnxscript.optimizer.fold_constants(model)
    onnxscript.optimizer.remove_unused_nodes(model)
    onnxscript.optimizer.optimize(model, num_iterations=1)


def _describe(model: ir.Model, metadata: Mapping[str, str]) -> None:
    model.metadata_props[f"{METADATA_PREFIX}version"] = version("graphprune")
    for key, value in metadata.items():
        model.metadata_props[f"{METADATA_PREFIX}{key.removeprefix(METADATA_PREFIX)}"] = value
    # What torch notes for its own debugging takes more room than the graph itself.
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()


def _write(model: ir.Model, path: Path) -> None:
    weights = (value.const_value for value in model.graph.initializers.values())
    size = sum(tensor.nbytes for tensor in weights if tensor is not None)
    if size > _LARGEST_FILE:
        _write_pair(model, path)
        return
    with replacing(path) as temporary:
        large = _take_large(model)
        with temporary.open("wb") as stream:
            write_with(ir.to_proto(model), large, stream)


def _write_pair(model: ir.Model, path: Path) -> None:
    """Write a file whose weights lie beside it.

    The weights go to a file that nothing refers to yet: as the new pair counts from the moment in
    which its first file takes the place of the old one, who is killed leaves one pair or the other.
    """
    unneeded: list[Path] = []
    try:
        with replacing(path) as temporary:
            old = _beside(path)
            data = next(name for name in _names_beside(path) if not os.path.lexists(name))
            unneeded = [data]
            ir.save(model, temporary, external_data=data.name)
        unneeded = old
    finally:
        for left in unneeded:
            left.unlink(missing_ok=True)


def _names_beside(path: Path) -> Iterator[Path]:
    """Yield the names that the weights of a file may have, best first."""
    yield path.with_name(f"{path.name}.data")
    for place in count(1):
        yield path.with_name(f"{path.name}.{place}.data")


def _beside(path: Path) -> list[Path]:
    """Return the files of such names that are there."""
    named = re.compile(re.escape(path.name) + r"(\.\d+)?\.data")
    found = path.parent.iterdir() if path.parent.is_dir() else ()
    return [other for other in found if named.fullmatch(other.name)]


def _take_large(model: ir.Model) -> list[LargeWeight]:
    """Take the large weights out of a model; readers still know them by name."""
    taken = []
    for name, value in list(model.graph.initializers.items()):
        weight = value.const_value
        if weight is None or weight.nbytes <= LARGE or weight.dtype.bitwidth % 8:
            continue
        del model.graph.initializers[name]
        tensor = onnx.TensorProto(name=name, data_type=weight.dtype, dims=weight.shape.numpy())
        taken.append(LargeWeight(tensor=tensor, size=weight.nbytes, numbers=weight.tobytes))
    return taken
