"""The graph of axes: which axes of which tensors an op couples; and its files.

An op couples two axes if they share an atom, directly or through what this op itself has united.
Axes that merely belong to one class because of other ops are not joined: a convolution in a
residual stream joins its input with its weight's input axis and its output with the weight's output
axis, though all four shrink together once the stream is added up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import numpy.typing as npt
from torch import fx

from graphprune.analysis import ParameterAxis, ResultKey, overload_name, returns_several
from graphprune.drawing import draw
from graphprune.errors import OptionError
from graphprune.files import write_text
from graphprune.labels.coupler import Union
from graphprune.tracing import module_path

if TYPE_CHECKING:
    from graphprune.graph import DependencyGraph

Atoms = npt.NDArray[np.int64]

SUFFIXES = (".svg", ".graphml", ".dot", ".json")
"""What :func:`write_graph` can write."""


@dataclass(frozen=True)
class _Axis:
    """One axis of one tensor.

    Args:
        name: Name of its node, ``tensor:dim``.
        atoms: All atoms along it.
    """

    name: str
    atoms: Atoms


def coupling_graph(graph: DependencyGraph) -> nx.Graph:
    """Return the graph of axes.

    Nodes are axes, named ``tensor:dim``, of parameters and of activations, wherever labels say
    that entries could differ; attributes ``kind`` (parameter or activation), ``op``,
    ``parameter``, ``shape``, ``dim``, ``size``, ``group`` and ``pin`` (reason, '' if prunable).
    Edges join axes that one op couples; attribute ``op`` is its overload, ``via`` its node.
    """
    return _Couplings(graph).build()


def write_graph(graph: DependencyGraph, path: Path | str) -> None:
    """Write the graph of axes (``.graphml``, ``.dot``, ``.json``) or a drawing of the network.

    Args:
        graph: The network.
        path: Where to; its suffix says what. ``.svg`` draws one box per layer, coloured by group;
            ``.json`` is networkx's node-link form.

    Raises:
        OptionError: The suffix is none of these.
        ArtifactError: The file cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(
            f"cannot write a graph as {target.name!r}",
            hint=f"end the name in one of {', '.join(SUFFIXES)}",
        )
    if suffix == ".svg":
        write_text(target, draw(graph))
        return
    writers = {".graphml": _graphml, ".dot": _dot, ".json": _json}
    write_text(target, writers[suffix](coupling_graph(graph)))


class _Couplings:
    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph
        self._found = nx.Graph()
        self._unions: dict[str, list[Union]] = {}
        for union in (*graph.analysis.reports.unions, *graph.analysis.solution.settled):
            self._unions.setdefault(union.op, []).append(union)

    def build(self) -> nx.Graph:
        for axis in self._graph.analysis.parameter_axes:
            self._add_parameter(axis)
        nodes = self._graph.nodes.values()
        for node in nodes:
            if node.op != "get_attr" and not returns_several(node):
                self._add_activation(node)
        for node in nodes:
            if node.op == "call_function" and not self._is_part(node):
                self._join(node)
        return self._found

    # ---- nodes -------------------------------------------------------------------------------

    def _add_parameter(self, axis: ParameterAxis) -> None:
        analysis = self._graph.analysis
        units = self._graph.parameter_units.get(axis.parameter, {}).get(axis.dim)
        pins = analysis.solution.pins
        pinned = (pins[c][0] for c in analysis.solution.class_of[axis.atoms].tolist() if c in pins)
        first = next(pinned, None)
        self._found.add_node(
            f"{axis.parameter}:{axis.dim}",
            kind="parameter",
            op="",
            module=axis.parameter.rpartition(".")[0],
            parameter=axis.parameter,
            shape=_shape_text(self._parameter_shapes[axis.parameter]),
            dim=axis.dim,
            size=int(axis.atoms.size),
            **self._units(units),
            role=axis.role,
            pin="" if units is not None or first is None else first.reason,
        )

    def _add_activation(self, node: fx.Node) -> None:
        value = self._graph.analysis.values.get((node.name, None))
        if value is None:
            return
        for dim in sorted({dim for dim in range(value.rank) if value.along(dim)}):
            units = self._graph.axes.get((node.name, None), {}).get(dim)
            self._found.add_node(
                f"{node.name}:{dim}",
                kind="activation",
                op=overload_name(node) if node.op == "call_function" else node.op,
                module=module_path(node),
                parameter="",
                shape=_shape_text(value.shape),
                dim=dim,
                size=value.shape[dim],
                **self._units(units),
                role="",
                pin="" if units is not None else self._graph.reason((node.name, None), dim),
            )

    def _units(self, units: Atoms | None) -> dict[str, str | int]:
        present = np.unique(units[units >= 0]) if units is not None else np.zeros(0, np.int64)
        groups = np.unique(np.searchsorted(self._firsts, present, "right") - 1)
        names = [self._graph.groups[k].name for k in groups.tolist()]
        return {"group": ", ".join(names), "n_units": int(present.size)}

    @cached_property
    def _firsts(self) -> Atoms:
        return np.array([group.first for group in self._graph.groups], np.int64)

    @cached_property
    def _parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        aliases, values = self._graph.program.aliases, self._graph.analysis.values
        return {
            aliases[str(node.target)]: values[node.name, None].shape
            for node in self._graph.nodes.values()
            if node.op == "get_attr" and str(node.target) in aliases and node.users
        }

    # ---- edges -------------------------------------------------------------------------------

    def _join(self, node: fx.Node) -> None:
        axes = [axis for key in self._tensors(node) for axis in self._axes(key)]
        axes = list({axis.name: axis for axis in axes if axis.name in self._found}.values())
        if len(axes) < 2:
            return
        parts = _components([axis.atoms for axis in axes], self._unions.get(node.name, []))
        shared = parts.astype(np.int32) @ parts.astype(np.int32).T
        overload = overload_name(node)
        for left, right in zip(*np.nonzero(np.triu(shared, 1)), strict=True):
            pair = (axes[left].name, axes[right].name)
            if not self._found.has_edge(*pair):
                self._found.add_edge(*pair, op=overload, via=node.name)

    def _tensors(self, node: fx.Node) -> Iterator[ResultKey]:
        """Yield the tensors that enter and leave an op, parts of a tuple one by one."""
        for source in node.all_input_nodes:
            yield source.name, None
        if returns_several(node):
            for part in node.users:
                yield part.name, None
        else:
            yield node.name, None

    def _axes(self, key: ResultKey) -> Iterator[_Axis]:
        value = self._graph.analysis.values.get(key)
        if value is None:
            return
        node = self._graph.nodes[key[0]]
        is_parameter = node.op == "get_attr"
        name = self._graph.program.aliases.get(str(node.target)) if is_parameter else node.name
        for dim in range(value.rank):
            along = value.along(dim)
            if along:
                atoms = np.unique(np.concatenate([factor.reshape(-1) for factor in along]))
                yield _Axis(f"{name}:{dim}", atoms)

    @staticmethod
    def _is_part(node: fx.Node) -> bool:
        """Whether a node only names one result of an op that returns several."""
        return getattr(node.target, "__name__", "") == "getitem" and returns_several(
            node.all_input_nodes[0]
        )


def _components(axes: list[Atoms], unions: list[Union]) -> npt.NDArray[np.bool_]:
    """Return which axis holds which class of atoms, where an op's own unions make the classes."""
    everything = [*axes, *(side for union in unions for side in (union.left, union.right))]
    present = np.unique(np.concatenate([atoms.reshape(-1) for atoms in everything]))
    parent = np.arange(present.size)
    left = np.concatenate([union.left.reshape(-1) for union in unions] or [present[:0]])
    right = np.concatenate([union.right.reshape(-1) for union in unions] or [present[:0]])
    local = nx.utils.UnionFind(parent.tolist())
    places = zip(np.searchsorted(present, left), np.searchsorted(present, right), strict=True)
    for one, other in places:
        local.union(int(one), int(other))
    class_of = np.array([local[k] for k in parent.tolist()], np.int64)
    holds = np.zeros((len(axes), present.size), bool)
    for row, atoms in enumerate(axes):
        holds[row, class_of[np.searchsorted(present, atoms)]] = True
    return holds


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


# ---- files --------------------------------------------------------------------------------------


def _graphml(graph: nx.Graph) -> str:
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def _json(graph: nx.Graph) -> str:
    return json.dumps(nx.node_link_data(graph, edges="links"), indent=1) + "\n"


def _dot(graph: nx.Graph) -> str:
    lines = ["graph couplings {", "  node [shape=box];"]
    for name, attributes in graph.nodes(data=True):
        lines.append(f"  {_quoted(name)} [{_dot_attributes(attributes)}];")
    for left, right, attributes in graph.edges(data=True):
        lines.append(f"  {_quoted(left)} -- {_quoted(right)} [{_dot_attributes(attributes)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _dot_attributes(attributes: Mapping[str, object]) -> str:
    # "group" means something else to graphviz: nodes of one group are drawn in line.
    renamed = {"group": "pruning_group"}
    return ", ".join(
        f"{renamed.get(key, key)}={_quoted(str(value))}" for key, value in attributes.items()
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
