"""Trace: a PyTorch model becomes a functional ATen graph that owns its own weights."""

from __future__ import annotations

import copy
import inspect
import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.utils import _pytree as pytree

from graphprune.batchnorms import restore_batch_norms
from graphprune.errors import TraceError, first_line
from graphprune.inlining import inline_regions
from graphprune.shuffles import name_shuffles
from graphprune.strides import drop_identity_strides

BATCH = "batch"
_TORCH = f'"{Path(torch.__file__).parent}{os.sep}'
"""How a line of a stack trace begins to name a file of torch."""

MAX_BATCH = 1 << 16


@dataclass(frozen=True, kw_only=True)
class TracedProgram:
    """A model as a graph of ATen calls.

    Args:
        module: Graph in evaluation mode, without in-place ops; owns copies of the weights.
        example_inputs: The inputs it was traced with, batch of at least 2.
        dynamic_batch: The graph holds for any batch size.
        aliases: For every parameter and buffer name, the first name of the same tensor.
        unused: Parameters and buffers that the traced forward does not read.
        batch_size: Leading size of the example inputs.
        traced_from: The model's own parameters by name, as long as the model lives: what an
            optimizer of the model holds.
    """

    module: fx.GraphModule
    example_inputs: tuple[Any, ...]
    dynamic_batch: bool
    aliases: Mapping[str, str]
    unused: tuple[str, ...]
    batch_size: int
    traced_from: WeakValueDictionary[str, nn.Parameter] = field(
        default_factory=WeakValueDictionary, compare=False, repr=False
    )


def trace_program(model: nn.Module, example_inputs: tuple[Any, ...]) -> TracedProgram:
    """Trace ``model`` on ``example_inputs``; the model itself stays as it is.

    Args:
        model: Any module that ``torch.export`` can trace; taken in evaluation mode.
        example_inputs: Positional inputs; tensors have the batch as their first dim.

    Raises:
        TraceError: That is no module or no tuple, ``torch.export`` refuses the model, it writes in
            place where that cannot be followed, a name in it is not one that can be written into
            generated code, a size in it depends on the data, or the trace computes something else
            than the model.
    """
    _require_types(model, example_inputs)
    check_names(model)
    inputs = _with_batch_of_two(tuple(example_inputs))
    evaluated = _evaluation_copy(model)
    program, dynamic = export_program(evaluated, inputs)
    module = _functional_module(program)
    _require_known_sizes(module)
    restore_batch_norms(module)
    name_shuffles(module)
    drop_identity_strides(module)
    _require_same_function(evaluated, module, inputs)
    return TracedProgram(
        module=module,
        example_inputs=inputs,
        dynamic_batch=dynamic,
        aliases=_aliases(module),
        unused=_unused(module),
        batch_size=_batch_size(inputs),
        traced_from=WeakValueDictionary(model.named_parameters(remove_duplicate=False)),
    )


def _require_types(model: object, example_inputs: object) -> None:
    """Refuse what is passed in place of a module and of its inputs.

    Raises:
        TraceError: The model is no module, or the inputs are no tuple.
    """
    if not isinstance(model, nn.Module):
        raise TraceError(
            f"what is to be traced is of type {type(model).__name__}, not a torch.nn.Module",
            hint="pass the module itself, program.module() of an ExportedProgram, or "
            "graphprune.load_model(path).module of a file",
        )
    if not isinstance(example_inputs, (tuple, list)):
        raise TraceError(
            f"the example inputs are of type {type(example_inputs).__name__}, not a tuple",
            hint="pass a tuple of all positional inputs: (x,) for one",
        )


def _require_known_sizes(module: fx.GraphModule) -> None:
    """Refuse tensors whose sizes are known only when the network runs.

    Raises:
        TraceError: There is one, such as what a mask picks.
    """
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    for node in module.graph.nodes:
        for made in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(made, torch.Tensor) and any(map(free_unbacked_symbols, made.shape)):
                raise TraceError(
                    f"{node.target} makes a tensor whose size depends on the data{_where(node)}",
                    hint="pick as many entries of every input, by an index or topk, not by a mask",
                )


def _require_same_function(
    model: nn.Module, traced: fx.GraphModule, inputs: tuple[Any, ...]
) -> None:
    """Check that the traced network computes what the model computes.

    All later checks compare with the traced network, so a fault in tracing would escape them.

    Raises:
        TraceError: It does not.
    """
    with torch.no_grad():
        expected, found = (
            # A forward may write into its input.
            pytree.tree_leaves(form(*pytree.tree_map_only(torch.Tensor, torch.clone, inputs)))
            for form in (model, traced)
        )
    for ours, theirs in zip(expected, found, strict=True):
        if not isinstance(ours, torch.Tensor) or not ours.is_floating_point():
            continue
        finite = ours[ours.isfinite()]
        allowed = 1e-4 * float(finite.abs().max()) if finite.numel() else 0.0
        if theirs.shape != ours.shape or not torch.allclose(
            theirs, ours, rtol=0, atol=allowed, equal_nan=True
        ):
            raise TraceError(
                f"the traced network differs from {type(model).__name__} on the same inputs",
                hint="make its forward deterministic in evaluation mode",
            )


def _functional_module(program: ExportedProgram) -> fx.GraphModule:
    """Return a program's graph without in-place ops.

    Where one writes through a view, torch rewrites the whole graph (views become scatters).
    """
    module = _graph_module(program)
    try:
        functionalize(module)
    except TraceError as refused:
        try:
            with quiet_export():
                module = _graph_module(program.run_decompositions({}))
        except Exception:  # it raises many unrelated types; the first reason is the clearer one
            raise refused from None
        functionalize(module)
        _allow_copies(module)
    return module


def _allow_copies(module: fx.GraphModule) -> None:
    """Reshape instead of view: without writes, tensors may lie otherwise in memory."""
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    module.recompile()


def _graph_module(program: ExportedProgram) -> fx.GraphModule:
    module = program.module(check_guards=False)
    if not isinstance(module, fx.GraphModule):
        raise TraceError(
            f"torch.export returned a {type(module).__name__} instead of a graph",
            hint="this torch version is not supported; see `graphprune doctor`",
        )
    inline_regions(module)
    return module


def check_names(model: nn.Module) -> None:
    """Refuse names of submodules and tensors that would end a string literal.

    torch.fx writes them between quotes into code that it compiles, so that such a name (from a
    file, say) could run anything.

    Raises:
        TraceError: There is one.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for name in [*names, *named_tensors(model)]:
        if not name.isprintable() or '"' in name or "\\" in name:
            raise TraceError(
                f"the model has a part named {name!r}, which torch.fx cannot write into code",
                hint="name submodules and parameters by letters, digits and underscores",
            )


def batch_dims(inputs: tuple[Any, ...], dim: Any) -> Any:
    """Return ``dynamic_shapes`` that make the leading dim of every tensor ``dim``."""

    def of(leaf: Any) -> Any:
        return {0: dim} if isinstance(leaf, torch.Tensor) and leaf.dim() else None

    return pytree.tree_map(of, inputs)


def export_with_batch(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    """Export with a dynamic batch of at least 1."""
    shapes = batch_dims(inputs, Dim(BATCH, min=1, max=MAX_BATCH))
    with quiet_export():
        return export(model, inputs, dynamic_shapes=_as_signed(model, shapes), strict=False)


def _as_signed(model: nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Gather what goes into ``*args`` of a forward into one tuple, as torch.export does."""
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:first], shapes[first:])


def training_flag(node: fx.Node) -> int | None:
    """Return the position of an op's ``training`` / ``train`` argument, if it has one."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return None
    for position, argument in enumerate(schema.arguments):
        if argument.name in ("training", "train"):
            return position
    return None


class quiet_export:  # noqa: N801 - reads as a function at its call sites
    """Silence torch.export's own warnings and logs; errors still surface."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *exception: object) -> None:
        logging.disable(self._level)
        self._warnings.__exit__(None, None, None)


def _evaluation_copy(model: nn.Module) -> nn.Module:
    duplicate = copy.deepcopy(model, _computed_tensors(model))
    # Graphs that torch.export made are in evaluation mode for good and refuse to be switched.
    with suppress(NotImplementedError):
        duplicate.eval()
    return duplicate


def _computed_tensors(model: nn.Module) -> dict[int, Any]:
    """Return copies, by identity, of tensors that ``deepcopy`` refuses because they are computed.

    Modules keep such results of their last forward: the weight of an old weight norm, for one.
    """
    kept = [value for module in model.modules() for value in vars(module).values()]
    computed = [value for value in kept if isinstance(value, torch.Tensor) and not value.is_leaf]
    return {id(tensor): tensor.detach().clone() for tensor in computed}


def export_program(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[ExportedProgram, bool]:
    """Export with a dynamic batch if the model allows it, else with the batch of ``inputs``.

    Returns:
        The program, and whether its batch is dynamic.

    Raises:
        TraceError: ``torch.export`` refuses both.
    """
    try:
        return export_with_batch(model, inputs), True
    except Exception as first:  # torch.export raises many unrelated types
        try:
            with quiet_export():
                return export(model, inputs, strict=False), False
        except Exception as error:
            raise TraceError(
                f"torch.export cannot trace {type(model).__name__}: {first_line(error)}",
                hint="make its forward exportable (no data-dependent control flow), "
                "or give the part of it that is",
            ) from first


def _batch_size(inputs: tuple[Any, ...]) -> int:
    leaves = pytree.tree_leaves(inputs)
    return next(int(x.shape[0]) for x in leaves if isinstance(x, torch.Tensor) and x.dim())


def _with_batch_of_two(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Repeat a batch of one: torch.export would take the 1 for a constant."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    if not leaves:
        raise TraceError(
            "the example inputs hold no tensor", hint="pass a tuple of tensors, batch first"
        )
    if any(leaf.dim() and leaf.shape[0] != 1 for leaf in leaves):
        return inputs

    def twice(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) and leaf.dim() else leaf

    doubled: tuple[Any, ...] = pytree.tree_map(twice, inputs)
    return doubled


# ---- in-place ops -------------------------------------------------------------------------------


def functionalize(module: fx.GraphModule) -> None:
    """Replace in-place ops by their functional twins, in the graph, where that changes nothing.

    Raises:
        TraceError: An op writes through a view whose base is read afterwards.
    """
    graph = module.graph
    position = {node: k for k, node in enumerate(graph.nodes)}
    alias = _alias_sets(graph)
    for node in list(graph.nodes):
        if not _writes(node) or _fills_own_tensor(node, alias):
            continue
        twin = functional_twin(node)
        written = node.args[0]
        _check_only_reader(node, written, alias[written], position)
        node.target = twin
        for user in [user for user in written.users if position[user] > position[node]]:
            user.replace_input_with(written, node)
    graph.lint()
    module.recompile()


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _fills_own_tensor(node: fx.Node, alias: Mapping[fx.Node, set[fx.Node]]) -> bool:
    """Whether a write touches only a tensor that the forward made itself, with constants.

    Such a tensor (an attention mask, say) has no axis that could shrink, and is made afresh in
    every forward, so the write may stay.
    """
    target = node.all_input_nodes[0]
    made = min(alias[target], key=lambda other: (_viewed(other) is not None, other.name))
    written = [other for other in node.all_input_nodes if other is not target]
    return _creates(made) and not any(_reads_input(other) for other in written)


def _creates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    name = schema.name.split("::")[1] if schema is not None else ""
    return name.removeprefix("new_") in ("zeros", "ones", "full", "empty")


def _reads_input(node: fx.Node) -> bool:
    waiting, seen = [node], {node}
    while waiting:
        current = waiting.pop()
        if current.op == "placeholder":
            return True
        fresh = [other for other in current.all_input_nodes if other not in seen]
        seen.update(fresh)
        waiting += fresh
    return False


def functional_twin(node: fx.Node) -> Any:
    """Return the overload that computes the same as an in-place op without writing.

    Raises:
        TraceError: There is none.
    """
    schema = node.target._schema  # type: ignore[union-attr]
    name = schema.name.split("::")[1]
    packet = getattr(torch.ops.aten, name.rstrip("_"), None) if name.endswith("_") else None
    twin = getattr(packet, schema.overload_name or "default", None) if packet else None
    if twin is None or not isinstance(node.args[0], fx.Node):
        raise TraceError(
            f"{node.target} writes into its input and has no functional form{_where(node)}",
            hint="write the assignment in the model's forward without in-place ops",
        )
    return twin


def _check_only_reader(
    node: fx.Node, written: fx.Node, aliases: set[fx.Node], position: Mapping[fx.Node, int]
) -> None:
    for other in aliases - {written, node}:
        # What was made of the result of this write comes later and sees it anyhow.
        if position[other] < position[node] and any(
            position[user] > position[node] for user in other.users
        ):
            raise TraceError(
                f"{node.target} writes through a view of {other.name}, "
                f"which is read afterwards{_where(node)}",
                hint="write the assignment in the model's forward without in-place ops",
            )


def _alias_sets(graph: fx.Graph) -> dict[fx.Node, set[fx.Node]]:
    """Group the nodes that may share memory, by ops that return views or their input itself."""
    sets: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        sets[node] = {node}
        base = _viewed(node)
        if base is not None:
            sets[base].add(node)
            sets[node] = sets[base]
    return sets


def _viewed(node: fx.Node) -> fx.Node | None:
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.is_mutable:  # getitem of a split; an in-place op returns its input
        return node.args[0]
    returns_view = any(result.alias_info is not None for result in schema.returns)
    # In evaluation mode dropout hands back its input itself, though its schema does not say so.
    return node.args[0] if returns_view or "dropout" in schema.name else None


def _where(node: fx.Node) -> str:
    line = source_line(node)
    return f" ({line})" if line else ""


def source_line(node: fx.Node) -> str:
    """Return ``file:line`` of the innermost user-level frame that made a node, or ''."""
    trace = node.meta.get("stack_trace") or ""
    frames = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    own = [frame for frame in frames if _TORCH not in frame]
    if not own:
        return ""
    file, line = own[-1].split('"')[1], own[-1].split("line ")[1].split(",")[0]
    return f"{file}:{line}"


def module_path(node: fx.Node) -> str:
    """Return the dotted path of the module that made a node, '' for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    for path, _ in reversed(list(stack.values())):
        return str(path)
    return ""


# ---- names --------------------------------------------------------------------------------------


def named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers by name, every name of a shared one."""
    found: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    return found


def _aliases(module: fx.GraphModule) -> dict[str, str]:
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(tensor), name) for name, tensor in named_tensors(module).items()
    }


def _unused(module: fx.GraphModule) -> tuple[str, ...]:
    aliases = _aliases(module)
    read = {
        aliases.get(str(node.target))
        for node in module.graph.nodes
        if node.op == "get_attr" and node.users
    }
    return tuple(
        name
        for name, first in aliases.items()
        if first not in read and not name.endswith("num_batches_tracked")
    )
