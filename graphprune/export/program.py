"""Pruned networks in ``.pt2`` files: exported programs, which hold tensors and a graph but no code.

A file is read only after the scan of :mod:`graphprune.load`, so that opening one cannot run code.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphprune.errors import ModelError
from graphprune.files import replacing_stream
from graphprune.load.exported import module_of, read_program
from graphprune.signature import a_weight
from graphprune.surgery import PrunedModel, as_pruned_model
from graphprune.tracing import export_program, quiet_export

_TRACES = ("stack_trace", "from_node", "source_fn_stack")
"""What torch notes on nodes about where they come from: paths of the machine it ran on."""


def program_of(model: nn.Module, example_inputs: tuple[Any, ...] | None = None) -> ExportedProgram:
    """Export a network in evaluation mode, with a dynamic batch if it has one.

    Exporting takes longer than writing: make a program once and hand it to :func:`save_program`
    and to :func:`graphprune.export.export_onnx`.

    Args:
        model: A pruned network or any other; it is not changed. The program shares its weights,
            if they are on the CPU.
        example_inputs: Positional inputs with a batch of 2 or more; a pruned network knows its own.

    Raises:
        ModelError: There are no example inputs.
        TraceError: ``torch.export`` refuses the network.
    """
    model = _for_export(model)
    program, _ = export_program(model, inputs_for(model, example_inputs))
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            _forget_origin(module.graph)
    return program


def inputs_for(
    model: nn.Module, given: tuple[Any, ...] | None = None, *, batch: int = 2, seed: int = 0
) -> tuple[Any, ...]:
    """Return the inputs given or, for a pruned network, inputs drawn to its signature.

    Raises:
        ModelError: None are given and the network does not know any.
    """
    if given is not None:
        return tuple(given)
    if isinstance(model, PrunedModel):
        return model.example_inputs(batch, seed=seed)
    raise ModelError(
        f"a {type(model).__name__} does not know what inputs it takes",
        hint="pass example_inputs, a tuple of tensors",
    )


def save_program(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | None,
    path: Path | str,
    *,
    program: ExportedProgram | None = None,
) -> None:
    """Write a network to a ``.pt2`` file, whole or not at all.

    Names, dtypes, ties, buffers, ``requires_grad`` and the structure of the outputs come back when
    it is read; paths of this machine are left out.

    Args:
        model: The network; saved in evaluation mode.
        example_inputs: As for :func:`program_of`; None for a pruned network's own.
        path: The file; it should end in ``.pt2``.
        program: What :func:`program_of` made of this network, to save the time.

    Raises:
        ArtifactError: The file cannot be written.
        TraceError: ``torch.export`` refuses the network.
    """
    program = program_of(model, example_inputs) if program is None else program
    with replacing_stream(Path(path)) as stream, quiet_export():
        # Through a stream, because torch writes the name of a file into the file.
        torch.export.save(program, stream)


def load_program(path: Path | str, *, trust: bool = False) -> PrunedModel:
    """Read a network from a ``.pt2`` file; it can be trained, repaired and exported again.

    Args:
        path: What :func:`save_program` wrote, or another exported program.
        trust: Read a file that holds more than tensors and operators, which may run code.

    Raises:
        TrustError: It holds more, and ``trust`` is false.
        ModelError: It is missing, damaged or no exported program.
    """
    program = read_program(str(path), trust=trust)
    module = module_of(program)
    if not isinstance(module, fx.GraphModule):
        raise ModelError(
            f"{path} holds a {type(module).__name__} instead of a graph",
            hint="write it with torch.export.save of a current torch",
        )
    given = program.example_inputs
    return as_pruned_model(module, None if given is None else pytree.tree_leaves(given[0]))


def _for_export(model: nn.Module) -> nn.Module:
    weight = a_weight(model)
    on_cpu = weight is None or weight.device.type == "cpu"
    # Modules that torch.export made are in evaluation mode for good and refuse to be switched.
    can_switch = isinstance(model, PrunedModel) or not isinstance(model, fx.GraphModule)
    if on_cpu and not (can_switch and model.training):
        return model
    duplicate = copy.deepcopy(model).cpu()
    return duplicate.eval() if can_switch else duplicate


def _forget_origin(graph: fx.Graph) -> None:
    for node in graph.nodes:
        for key in _TRACES:
            node.meta.pop(key, None)
