"""Exported programs: ``torch.export.save(program, "model.pt2")``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from graphprune.errors import ModelError
from graphprune.load.archive_scan import scan_archive
from graphprune.load.containers import Container, container_of, existing_file
from graphprune.load.source import Draft

_POSITIONAL_HINT = "export the model with positional tensor inputs only"


def read_exported(spec: str, *, trust: bool) -> Draft:
    """Read an exported program and make a module of it.

    Args:
        spec: The path as typed.
        trust: Skip the scan; reading may then run whatever the file says.

    Raises:
        TrustError: The archive holds more than tensors and operators, and ``trust`` is false.
        ModelError: It cannot be read, or takes inputs that are not tensors.
    """
    program = read_program(spec, trust=trust)
    stored = _stored_inputs(program, spec)
    return Draft(
        module=module_of(program),
        is_exported=True,
        stored_inputs=stored,
        fixed_batch=_fixed_batch(program),
    )


def read_program(spec: str, *, trust: bool) -> ExportedProgram:
    """Read an exported program, whatever inputs it takes.

    Args:
        spec: The path as typed.
        trust: Skip the scan; reading may then run whatever the file says.

    Raises:
        TrustError: The archive holds more than tensors and operators, and ``trust`` is false.
        ModelError: It cannot be read.
    """
    path = existing_file(spec, what="model file")
    _require_exported(path, spec)
    if not trust:
        scan_archive(path, spec)
    return _load(path, spec)


def module_of(program: ExportedProgram) -> nn.Module:
    """Make a module of a program that was read; it shares the program's weights.

    Tied parameters and buffers come back as several over the same memory, which copies of the
    module would no longer share: they become one again.
    """
    module = program.module(check_guards=False)
    first: dict[tuple[object, ...], Tensor] = {}
    for owner, name, tensor in _owned(module):
        if not tensor.numel():
            continue
        key = (type(tensor), tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        tied = first.setdefault(key, tensor)
        if tied is not tensor:
            setattr(owner, name, tied)
    return module


def _owned(module: nn.Module) -> Iterable[tuple[nn.Module, str, Tensor]]:
    for owner in module.modules():
        members = (*owner._parameters.items(), *owner._buffers.items())
        yield from ((owner, name, tensor) for name, tensor in members if tensor is not None)


def _require_exported(path: Path, spec: str) -> None:
    kind = container_of(path)
    if kind is Container.EXPORTED:
        return
    advice = {
        Container.TORCH_SAVE: "it was written by torch.save: rename it to end in .pt",
        Container.TORCHSCRIPT: "TorchScript cannot be pruned; export the eager module instead",
    }.get(kind, "write it with torch.export.save(program, FILE) of a current torch")
    raise ModelError(f"{spec} is not an exported program that torch can read", hint=advice)


def _load(path: Path, spec: str) -> ExportedProgram:
    try:
        with _quiet():
            return torch.export.load(path)
    except Exception as reason:
        raise ModelError(
            f"{spec} is damaged, or was saved by another torch than {torch.__version__} "
            f"({type(reason).__name__})",
            hint="export and save the model again with this torch",
        ) from reason


@contextmanager
def _quiet() -> Iterator[None]:
    # torch logs a traceback for a file that it cannot read; the error above says it in a sentence.
    logger = logging.getLogger("torch.export")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _stored_inputs(program: ExportedProgram, spec: str) -> tuple[torch.Tensor, ...]:
    if program.example_inputs is None:
        return tuple(torch.zeros(shape, dtype=dtype) for shape, dtype in _metadata(program, spec))
    positional, named = program.example_inputs
    if named or not all(isinstance(value, torch.Tensor) for value in positional):
        raise ModelError(f"{spec} takes inputs that are not tensors", hint=_POSITIONAL_HINT)
    return tuple(positional)


def _metadata(program: ExportedProgram, spec: str) -> Iterator[tuple[tuple[int, ...], torch.dtype]]:
    for value in _placeholders(program):
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"{spec} takes inputs that are not tensors", hint=_POSITIONAL_HINT)
        # A symbolic size has the value of the export as its hint, and 2 where there is none.
        sizes = (size if isinstance(size, int) else size.node.hint for size in value.shape)
        yield tuple(2 if size is None else int(size) for size in sizes), value.dtype


def _placeholders(program: ExportedProgram) -> Iterator[object]:
    values = {
        node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")
    }
    for given in program.graph_signature.input_specs:
        if given.kind is InputKind.USER_INPUT:
            yield values.get(given.arg.name) if isinstance(given.arg, TensorArgument) else None


def _fixed_batch(program: ExportedProgram) -> int | None:
    for value in _placeholders(program):
        if isinstance(value, torch.Tensor) and value.dim() and isinstance(value.shape[0], int):
            return value.shape[0]
    return None
