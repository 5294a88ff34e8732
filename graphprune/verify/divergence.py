"""Divergence: the first node of an ONNX file whose numbers are not the network's.

Both forms are run on one input with every value in between kept. A value of the file *agrees* if
the network computes the same numbers somewhere, in whatever shape. From the outputs that differ one
goes back until values agree; the first value behind those that the network knows under the same
name, or that must have a counterpart since the file keeps no names, is where the two part. Nodes
that the exporter made of one operator have no counterpart and are passed through; so are batch
norms folded into a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
import torch
from torch import Tensor, fx

from graphprune.graph import DependencyGraph
from graphprune.tracing import module_path, source_line
from graphprune.verify.cases import Case
from graphprune.verify.inside import onnx_values, torch_values
from graphprune.verify.report import Divergence, Witness

_STRICTER = 0.1
"""Differences grow on their way to the output: inside, less of them is allowed."""

_NAMED = 0.3
"""Share of the file's values that must have names of the network's for its names to be trusted."""


def find_divergence(
    network: fx.GraphModule,
    file: onnx.ModelProto,
    case: Case,
    relative: float,
    graph: DependencyGraph | None,
) -> Divergence | None:
    """Find the first node that differs; None if all agree, as where onnxruntime's rewriting errs.

    Args:
        network: The network as a graph.
        file: The file.
        case: Inputs on which they differ.
        relative: What passes for outputs.
        graph: What names the groups of weights.
    """
    forms = _Forms(
        file=file,
        ours=torch_values(network, case),
        theirs=onnx_values(file, case),
        allowed=_STRICTER * relative,
    )
    value = forms.first_that_differs
    if value is None:
        return None
    node, origin = forms.makers[value], forms.origin(value)
    taking_part = [] if origin is None else forms.behind(origin)
    weights = weights_of(taking_part) or forms.initializers(value)
    expected = None if origin is None else forms.ours[origin]
    return Divergence(
        case=case.name,
        node=node.name or value,
        op=node.op_type,
        value=value,
        error=None if expected is None else _error(expected, forms.theirs[value]),
        module=next(filter(None, map(module_path, taking_part)), _owner(weights)),
        source=next(filter(None, map(source_line, taking_part)), ""),
        weights=weights,
        groups=groups_of(weights, graph),
        witness=forms.witness(value, expected),
    )


@dataclass(frozen=True, kw_only=True)
class _Forms:
    """Both forms with all their values."""

    file: onnx.ModelProto
    ours: dict[fx.Node, Tensor]
    theirs: dict[str, Tensor]
    allowed: float

    @cached_property
    def makers(self) -> dict[str, onnx.NodeProto]:
        """The node that computes a value, in the order of the graph."""
        return {name: node for node in self.file.graph.node for name in node.output if name}

    @cached_property
    def live(self) -> set[str]:
        """Values that depend on the inputs."""
        found = {name for name in self.theirs if name not in self.makers}
        for name, node in self.makers.items():
            if not found.isdisjoint(node.input):
                found.add(name)
        return found

    @cached_property
    def agreeing(self) -> tuple[set[str], set[fx.Node]]:
        """Values of the file, and nodes of the network, that have a counterpart."""
        by_size: dict[int, list[tuple[fx.Node, Tensor]]] = {}
        for node, value in self.ours.items():
            by_size.setdefault(value.numel(), []).append((node, value))
        names, nodes = {name for name in self.theirs if name not in self.makers}, set()
        for name in self.theirs:
            found = self.theirs[name]
            equal = [
                node
                for node, value in by_size.get(found.numel(), ())
                if _error(value, found) <= self.allowed
            ]
            nodes.update(equal)
            # Whole numbers are sizes and places; they are never blamed.
            if equal or not found.is_floating_point():
                names.add(name)
        nodes.update(node for node in self.ours if node.op == "placeholder")
        return names, nodes

    @cached_property
    def named(self) -> dict[str, fx.Node]:
        """Nodes of the network that have the name of one of the file's values, and its size."""
        by_name = {node.name: node for node in self.ours}
        return {
            name: by_name[name]
            for name in self.makers
            if name in by_name and self.ours[by_name[name]].numel() == self.theirs[name].numel()
        }

    @cached_property
    def first_that_differs(self) -> str | None:
        """The first value that differs, on the way to some output."""
        agree, _ = self.agreeing
        outputs = [value.name for value in self.file.graph.output]
        region = self._back([name for name in outputs if name not in agree], agree)
        computed = [name for name in self.makers if name in self.live]
        keeps_names = len(self.named) >= _NAMED * len(computed)
        for name in computed:
            known = name in self.named if keeps_names else self._has_size(name)
            if name in region and (known or name in outputs):
                return name
        return None

    def origin(self, value: str) -> fx.Node | None:
        """Return the network's node that a value that differs was made of."""
        if value in self.named:
            return self.named[value]
        _, agreeing = self.agreeing
        found = self.theirs[value]
        rest = [
            (_error(ours, found), place, node)
            for place, (node, ours) in enumerate(self.ours.items())
            if node not in agreeing and ours.numel() == found.numel()
        ]
        return min(rest, key=lambda entry: entry[:2])[2] if rest else None

    def behind(self, origin: fx.Node) -> list[fx.Node]:
        """Return the network's nodes from those that agree to ``origin``, in order."""
        _, agreeing = self.agreeing
        found, waiting = {origin}, [origin]
        while waiting:
            for node in waiting.pop().all_input_nodes:
                if node not in found and node not in agreeing:
                    found.add(node)
                    waiting.append(node)
        return [node for node in origin.graph.nodes if node in found]

    def initializers(self, value: str) -> tuple[str, ...]:
        """Return names of the file's weights that a value is computed of directly."""
        known = {tensor.name for tensor in self.file.graph.initializer}
        return tuple(name for name in self.makers[value].input if name in known)

    def witness(self, value: str, expected: Tensor | None) -> Witness:
        """Cut out what computes a value from values that agree."""
        agree, _ = self.agreeing
        inside = self._back([value], agree)
        read = {name for inner in inside for name in self.makers[inner].input}
        inputs = sorted(name for name in (read - inside) & self.live)
        whole = onnx.ModelProto()
        whole.CopyFrom(self.file)
        del whole.graph.value_info[:]
        whole.graph.value_info.extend(self._described(name) for name in [*inputs, value])
        part = onnx.utils.Extractor(whole).extract_model(inputs, [value])
        shape = self.theirs[value].shape
        return Witness(
            model=part,
            inputs={name: self.theirs[name] for name in inputs},
            expected=None if expected is None else expected.reshape(shape),
        )

    def _described(self, name: str) -> onnx.ValueInfoProto:
        value = self.theirs[name]
        dtype = onnx.helper.np_dtype_to_tensor_dtype(value.numpy().dtype)
        return onnx.helper.make_tensor_value_info(name, dtype, [None] * value.dim())

    def _has_size(self, name: str) -> bool:
        size = self.theirs[name].numel()
        return any(value.numel() == size for value in self.ours.values())

    def _back(self, names: Sequence[str], until: set[str]) -> set[str]:
        """Return values that others are computed of, as far back as those of ``until``."""
        found, waiting = set(names), list(names)
        while waiting:
            for name in self.makers[waiting.pop()].input:
                if name in self.live and name not in found and name not in until:
                    found.add(name)
                    waiting.append(name)
        return found


def _error(reference: Tensor, other: Tensor) -> float:
    """Return the largest difference as a share of the largest magnitude, whatever the shapes."""
    ours, theirs = reference.double().flatten(), other.double().flatten()
    if torch.equal(ours, theirs) or not ours.numel():
        return 0.0
    scale, largest = float(ours.abs().max()), float((ours - theirs).abs().max())
    error = largest / scale if scale else float("inf")
    return float("inf") if math.isnan(error) else error


def weights_of(nodes: Iterable[fx.Node]) -> tuple[str, ...]:
    """Return the names of weights that are among some nodes, none twice."""
    return tuple(dict.fromkeys(str(node.target) for node in nodes if node.op == "get_attr"))


def _owner(weights: Sequence[str]) -> str:
    return weights[0].rpartition(".")[0] if weights else ""


def groups_of(weights: Sequence[str], graph: DependencyGraph | None) -> tuple[str, ...]:
    """Return the groups whose units weights produce, or else those that they read."""
    if graph is None:
        return ()
    by_role: Mapping[bool, list[str]] = {True: [], False: []}
    for group in graph.groups:
        for is_producer in (True, False):
            if any(
                member.parameter in weights and (member.role == "producer") is is_producer
                for member in group.members
            ):
                by_role[is_producer].append(group.name)
    return tuple(by_role[True] or by_role[False])
