"""Analysis: run every op's rule over a traced program and solve what they report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import fx

import graphprune.ops  # noqa: F401 - registers the rules
from graphprune.batching import BatchPlace, batch_places
from graphprune.labels.coupler import Coupler, Reports
from graphprune.labels.solve import Solution, solve
from graphprune.labels.value import Factor, Shape, Value
from graphprune.ops.registry import OpCall, Result, UnsupportedCall, rule_for
from graphprune.shapes import concrete, result_shapes
from graphprune.tracing import TracedProgram, named_tensors

ResultKey = tuple[str, int | None]
"""A tensor in the graph: its node's name, and which result where the op returns several."""


@dataclass(frozen=True, kw_only=True)
class ParameterAxis:
    """One dim of a parameter or buffer.

    Args:
        parameter: First name of the tensor.
        dim: The dim.
        atoms: Atom of every entry.
        produces: Its slices compute slices of an op's result.
        consumes: Its slices read slices of an op's input.
        order: Place of the first op that reads the tensor.
    """

    parameter: str
    dim: int
    atoms: npt.NDArray[np.int64]
    produces: bool
    consumes: bool
    order: int

    @property
    def role(self) -> str:
        """``producer``, ``consumer`` or ``follower``."""
        if self.produces:
            return "producer"
        return "consumer" if self.consumes else "follower"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What is known about every tensor of a program.

    Args:
        program: The program.
        values: Shape and factors by tensor.
        parameter_axes: Every dim of size 2 or more of every floating parameter and buffer.
        reports: What the rules reported.
        solution: Classes of atoms, and the classes along every axis.
        unknown: Overloads without a rule, and how often each occurs on axes that could shrink.
        batch_places: Where the nodes that have one hold the batch.
        unpinned: Places of the outputs whose axes may shrink.
    """

    program: TracedProgram
    values: Mapping[ResultKey, Value]
    parameter_axes: tuple[ParameterAxis, ...]
    reports: Reports
    solution: Solution[ResultKey]
    unknown: Mapping[str, int]
    batch_places: Mapping[str, BatchPlace]
    unpinned: frozenset[int] = frozenset()


def analyse(program: TracedProgram, unpinned: frozenset[int] = frozenset()) -> Analysis:
    """Propagate labels through a program and solve them.

    Args:
        program: The program.
        unpinned: Places of the outputs whose axes may shrink; all others are pinned.
    """
    walk = _Walk(program, unpinned)
    for node in program.module.graph.nodes:
        walk.visit(node)
    walk.align_with_batch()
    return Analysis(
        program=program,
        values=walk.values,
        parameter_axes=walk.parameter_axes(),
        reports=walk.reports,
        solution=solve(walk.reports, walk.values),
        unknown=walk.unknown,
        batch_places=walk.batch_places,
        unpinned=unpinned,
    )


def returns_several(node: fx.Node) -> bool:
    """Whether a node's result is a list or tuple of tensors."""
    return isinstance(node.meta.get("val"), (list, tuple))


def symbolic_dims(node: fx.Node) -> frozenset[int]:
    """Return the dims of a node's (first) result whose size varies with the batch."""
    made = node.meta.get("val")
    first = made[0] if isinstance(made, (list, tuple)) and made else made
    sizes = first.shape if isinstance(first, torch.Tensor) else ()
    return frozenset(dim for dim, size in enumerate(sizes) if isinstance(size, torch.SymInt))


class _Walk:
    def __init__(self, program: TracedProgram, unpinned: frozenset[int]) -> None:
        self._unpinned = unpinned
        self.reports = Reports()
        self.values: dict[ResultKey, Value] = {}
        self.unknown: dict[str, int] = {}
        self._program = program
        self._tensors = named_tensors(program.module)
        self._parameters: dict[str, Value] = {}
        self._dims: dict[str, dict[int, npt.NDArray[np.int64]]] = {}
        self._constant_unions: list[int] = []
        self._first_read: dict[str, int] = {}
        self._position = 0
        self.batch_places = batch_places(program.module.graph, program.batch_size)

    # ---- one node ----------------------------------------------------------------------------

    def visit(self, node: fx.Node) -> None:
        self._position += 1
        if node.op == "placeholder":
            shapes = result_shapes(node)
            if shapes is not None:
                self.values[node.name, None] = Value(shapes[0])
        elif node.op == "get_attr" and node.users:
            self._read(node)
        elif node.op == "output":
            self._pin_outputs(node)
        elif node.op == "call_function":
            self._call(node)

    def _pin_outputs(self, node: fx.Node) -> None:
        coupler, returned = Coupler(node.name, self.reports), node.args[0]
        for place, made in enumerate(cast("tuple[Any, ...]", returned)):
            for value in self._values_of(made) if isinstance(made, fx.Node) else ():
                if place not in self._unpinned:
                    coupler.pin_value(value, "output of the network")
                elif made.name in self.batch_places:
                    for factor in value.along(self.batch_places[made.name].dim):
                        coupler.pin(factor, "an axis of the output into which the batch is folded")

    def _read(self, node: fx.Node) -> None:
        tensor = self._tensors.get(str(node.target))
        if tensor is None:  # a constant that is no buffer, or a subgraph
            found = attribute_of(self._program.module, str(node.target))
            if isinstance(found, torch.Tensor):
                shape = tuple(found.shape)
                self.values[node.name, None] = Value(shape, (), True, _integers(found))
            return
        name = self._program.aliases[str(node.target)]
        if name not in self._parameters:
            self._parameters[name] = self._label(name, tensor)
        self.values[node.name, None] = self._parameters[name]

    def _label(self, name: str, tensor: torch.Tensor) -> Value:
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point():
            return Value(shape, (), constant=True, numbers=_integers(tensor))
        coupler = Coupler(name, self.reports)
        dims = {dim: coupler.fresh(size) for dim, size in enumerate(shape) if size > 1}
        self._dims[name] = dims
        factors = tuple(
            atoms.reshape([atoms.size if k == dim else 1 for k in range(len(shape))])
            for dim, atoms in dims.items()
        )
        return Value(shape, factors, constant=True)

    def _call(self, node: fx.Node) -> None:
        shapes = result_shapes(node)
        if shapes is None:
            return
        self._note_reads(node)
        inputs = self._inputs(node)
        constant = all(value.constant for value in inputs)
        first_union, n_produced = len(self.reports.unions), len(self.reports.produced)
        results = self._apply(node, shapes, inputs)
        # A layer applied to constants has producers of its own; roles do not spread through it.
        if constant and len(self.reports.produced) == n_produced:
            self._constant_unions += range(first_union, len(self.reports.unions))
        if not returns_several(node):
            self.values[node.name, None] = results[0].as_constant(constant)
            return
        for index, value in enumerate(results):
            self.values[node.name, index] = value.as_constant(constant)

    def align_with_batch(self) -> None:
        """Make axes into which the batch is folded repeat themselves from sample to sample."""
        for (name, _), value in self.values.items():
            place = self.batch_places.get(name)
            if place is not None:
                for factor in value.along(place.dim):
                    self._repeat_per_sample(Coupler(name, self.reports), factor, place)

    def _repeat_per_sample(self, coupler: Coupler, factor: Factor, place: BatchPlace) -> None:
        batch, size = self._program.batch_size, factor.shape[place.dim]
        if not place.known or place.length(batch) != size:
            coupler.pin(factor, "an axis into which the batch is folded in an unknown order")
            return
        numbered = (place.outer, batch, place.repeats)
        split = (*factor.shape[: place.dim], *numbered, *factor.shape[place.dim + 1 :])
        coupler.collapse(factor.reshape(split), place.dim + 1)

    def _note_reads(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            if source.op == "get_attr" and str(source.target) in self._program.aliases:
                name = self._program.aliases[str(source.target)]
                self._first_read.setdefault(name, self._position)

    def _apply(
        self, node: fx.Node, shapes: tuple[Shape, ...], inputs: list[Value]
    ) -> tuple[Value, ...]:
        selected = self._selected(node)
        if selected is not None:
            return (selected,)
        overload = overload_name(node)
        coupler = Coupler(node.name, self.reports)
        rule = rule_for(overload)
        if rule is None:
            return self._pin_inputs(coupler, overload, f"no rule for {overload}", shapes, inputs)
        read = _results_read(node, len(shapes))
        call = OpCall(coupler, self._arguments(node), shapes, read, overload, symbolic_dims(node))
        try:
            return _checked(rule(call), shapes)
        except UnsupportedCall as error:
            reason = f"{overload}: {error}"
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # A rule that trips over an unforeseen form of its op must not cost the whole network.
            reason = f"{overload}: its rule failed on this call ({type(error).__name__}: {error})"
        return self._pin_inputs(coupler, overload, reason, shapes, inputs)

    def _pin_inputs(
        self,
        coupler: Coupler,
        overload: str,
        reason: str,
        shapes: tuple[Shape, ...],
        inputs: list[Value],
    ) -> tuple[Value, ...]:
        if any(value.factors for value in inputs):
            self.unknown[overload] = self.unknown.get(overload, 0) + 1
        for value in inputs:
            coupler.pin_value(value, reason)
        return tuple(Value(shape) for shape in shapes)

    # ---- arguments ---------------------------------------------------------------------------

    def _selected(self, node: fx.Node) -> Value | None:
        """Resolve ``getitem`` of an op with several results."""
        if getattr(node.target, "__name__", "") != "getitem" or len(node.args) != 2:
            return None
        source, index = node.args
        if isinstance(source, fx.Node) and isinstance(index, int):
            return self.values.get((source.name, index))
        return None

    def _inputs(self, node: fx.Node) -> list[Value]:
        return [value for source in node.all_input_nodes for value in self._values_of(source)]

    def _values_of(self, node: fx.Node) -> list[Value]:
        """Return the value of a node, or those of all its results."""
        several = len(node.meta.get("val", ()) or ()) if returns_several(node) else 0
        found = (self.values.get((node.name, index)) for index in (None, *range(several)))
        return [value for value in found if value is not None]

    def _arguments(self, node: fx.Node) -> tuple[Any, ...]:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return tuple(self._resolved(argument) for argument in node.args)
        listed = []
        for position, declared in enumerate(schema.arguments):
            if position < len(node.args):
                listed.append(self._resolved(node.args[position]))
            elif declared.name in node.kwargs:
                listed.append(self._resolved(node.kwargs[declared.name]))
            else:
                listed.append(declared.default_value)
        return tuple(listed)

    def _resolved(self, argument: Any) -> Any:
        """Replace nodes by the values, or sizes, that they make."""
        if isinstance(argument, fx.Node):
            made = argument.meta.get("val")
            if isinstance(made, (torch.SymInt, int)):
                return concrete(made)
            return self.values.get((argument.name, None))
        if isinstance(argument, (list, tuple)):
            return type(argument)(self._resolved(entry) for entry in argument)
        return argument

    # ---- parameters --------------------------------------------------------------------------

    def parameter_axes(self) -> tuple[ParameterAxis, ...]:
        produced = self._spread(self.reports.produced)
        consumed = self._spread(self.reports.consumed)
        return tuple(
            ParameterAxis(
                parameter=name,
                dim=dim,
                atoms=atoms,
                produces=bool(produced[atoms].any()),
                consumes=bool(consumed[atoms].any()),
                order=self._first_read.get(name, 0),
            )
            for name, dims in self._dims.items()
            for dim, atoms in dims.items()
        )

    def _spread(self, marks: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.bool_]:
        """Mark atoms and those one with them by ops on constants alone (weight norm, say)."""
        count = max(self.reports.n_atoms, 1)
        marked = np.zeros(count, bool)
        for atoms in marks:
            marked[atoms] = True
        unions = [self.reports.unions[k] for k in self._constant_unions]
        if not unions:
            return marked
        left = np.concatenate([union.left for union in unions])
        right = np.concatenate([union.right for union in unions])
        ones = np.ones(left.size, np.int8)
        matrix = coo_matrix((ones, (left, right)), shape=(count, count))
        n_components, component = connected_components(matrix, directed=False)
        hit = np.zeros(n_components, bool)
        hit[component[marked]] = True
        spread: npt.NDArray[np.bool_] = hit[component]
        return spread


def attribute_of(module: fx.GraphModule, target: str) -> Any:
    """Return what a ``get_attr`` node reads, by its target."""
    owner, _, name = target.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _integers(tensor: torch.Tensor) -> npt.NDArray[np.int64] | None:
    """Return what an index holds; only vectors serve as such."""
    if tensor.dim() != 1 or tensor.dtype not in (torch.int64, torch.int32):
        return None
    return tensor.detach().cpu().numpy().astype(np.int64)


def _results_read(node: fx.Node, count: int) -> tuple[bool, ...]:
    """Whether anything reads each result; all count as read where that cannot be seen."""
    if not returns_several(node):
        return (True,) * count
    if not all(getattr(user.target, "__name__", "") == "getitem" for user in node.users):
        return (True,) * count
    indices = {user.args[1] for user in node.users if user.users}
    return tuple(k in indices for k in range(count))


def overload_name(node: fx.Node) -> str:
    """Return the exact name that rules are registered under, e.g. ``aten.add.Tensor``."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    target = node.target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"


def _checked(result: Result, shapes: tuple[Shape, ...]) -> tuple[Value, ...]:
    """Refuse a rule's result that does not fit what the op returns."""
    results = (result,) if isinstance(result, Value) else result
    if len(results) != len(shapes):
        raise ValueError(f"{len(results)} results for {len(shapes)} tensors")
    for value, shape in zip(results, shapes, strict=True):
        if value is None or value.shape != shape:
            raise ValueError(f"result {value and value.shape} for a tensor of {shape}")
        for factor in value.factors:
            fits = all(size in (1, full) for size, full in zip(factor.shape, shape, strict=True))
            if not fits:
                raise ValueError(f"factor {factor.shape} for a tensor of {shape}")
    return tuple(value for value in results if value is not None)
