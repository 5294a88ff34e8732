"""What is measured on one network: analysis, a random plan, and whether its surgery is exact."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

import graphprune as gp
from graphprune.coalition import removed_entries
from graphprune.cost import CostModel
from graphprune.errors import GraphpruneError, first_line
from graphprune.game.masking import gated_module, mask_network, unit_gates
from graphprune.graph import DependencyGraph, Kept, dependency_graph
from graphprune.surgery import PrunedModel, cut
from graphprune.tracing import named_tensors, trace_program
from zoo.catalogue import Inputs, Network

RATIO = 0.3
"""Share of every group's units that goes."""

TOLERANCE = 1e-9
"""Largest error in float64, relative to the output's scale, that counts as rounding."""

ONNX_TOLERANCE = 1e-4
"""The same in float32, for ONNX."""

BATCHES = (2, 3)

Values = dict[str, Any]
"""Part of a row of the results."""

Outputs = list[list[Tensor]]
"""For every batch that is tried, the tensors that a network returns."""


@dataclass
class Row:
    """One network's results, told to a listener as they come.

    Args:
        tell: Called with every new part.
        stage: What is being done.
    """

    tell: Callable[[Values], None]
    stage: str = "build"
    values: Values = field(default_factory=dict)

    def add(self, **values: Any) -> None:
        """Note some results."""
        self.values.update(values)
        self.tell(values)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Name the stage and note the processor time that it takes."""
        self.stage = stage
        self.add(stage=stage)
        begun = time.process_time()
        yield
        self.add(**{f"{stage}_seconds": round(time.process_time() - begun, 3)})


class Widened(TorchFunctionMode):
    """Runs casts to float32 that are written into a forward as casts to float64.

    Norms and softmaxes of language models are computed in float32 whatever the weights are, which
    would leave errors of 1e-7 between networks that compute the same.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call ``func`` with float64 in the place of float32."""
        if func is Tensor.float:
            return Tensor.double(*args)
        args, kwargs = pytree.tree_map(_widened, (args, kwargs or {}))
        return func(*args, **kwargs)


def _widened(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


def widen(module: fx.GraphModule) -> None:
    """Do in a graph what :class:`Widened` does in a forward."""
    for node in module.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, _widened)
        node.kwargs = fx.node.map_aggregate(node.kwargs, _widened)
    module.recompile()


def measure(network: Network, tell: Callable[[Values], None], *, onnx: bool = True) -> None:
    """Run every check on one network and tell the results; failures are results too."""
    row = Row(tell)
    try:
        kept = _measure(network, row)
        if onnx and network.exported:
            with row.timed("onnx"):
                row.add(**_onnx(network, kept))
        row.add(stage="done")
    except GraphpruneError as error:
        row.add(status="refused", error=first_line(error, 300))
    except MemoryError:
        row.add(status="memory", error="the memory limit")
    except Exception as error:  # a row of the table, whatever it is
        status = "memory" if "allocate memory" in str(error) else "failed"
        row.add(status=status, error=first_line(error, 300))


def _measure(network: Network, row: Row) -> Kept:
    with row.timed("build"):
        model, inputs = network.build()
        row.add(**_described(model, inputs))
        model, inputs = model.double(), doubled(inputs)
    with row.timed("trace"):
        program = trace_program(model, inputs)
    widen(program.module)
    with row.timed("analyse"):
        graph = dependency_graph(program)
        costs = CostModel(graph)
        costs.total(graph.all_kept())
        costs.marginal("params")
        costs.marginal("macs")
    row.add(**analysis_of(graph))
    kept = random_kept(graph)
    with row.timed("check"):
        row.add(**_exactness(model, graph, kept, costs))
    row.add(status=_status(row.values))
    return kept


def _described(model: nn.Module, inputs: Inputs) -> Values:
    shapes = [list(x.shape[1:]) for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
    return {
        "input": shapes[0] if len(shapes) == 1 else shapes,
        "params": sum(parameter.numel() for parameter in model.parameters()),
    }


# ---- analysis -----------------------------------------------------------------------------------


def analysis_of(graph: DependencyGraph) -> Values:
    """Return what the analysis found."""
    pins: Counter[str] = Counter()
    for axis in graph.pinned:
        pins[axis.reason] += axis.n_pinned
    return {
        "nodes": len(graph.nodes),
        "groups": len(graph.groups),
        "units": graph.n_units,
        "share": round(prunable_share(graph), 5),
        "pins": dict(pins.most_common()),
        "unknown": dict(graph.unknown_ops),
        "dynamic_batch": graph.program.dynamic_batch,
        "statistics": sum(1 for _ in graph.statistics()),
    }


def prunable_share(graph: DependencyGraph) -> float:
    """Return the share of parameter entries that some unit takes along.

    Of all entries of all parameters that the forward reads (tied ones once), those that lie in the
    slice of some unit along at least one axis. An entry outside all slices stays whatever is
    pruned.
    """
    total = prunable = 0
    for name, tensor in _parameters(graph):
        along = graph.parameter_units.get(name, {})
        fixed = math.prod(
            int((along[dim] < 0).sum()) if dim in along else size
            for dim, size in enumerate(tensor.shape)
        )
        total += tensor.numel()
        prunable += tensor.numel() - fixed
    return prunable / max(total, 1)


def _parameters(graph: DependencyGraph) -> Iterator[tuple[str, Tensor]]:
    unused = set(graph.program.unused)
    for name, tensor in named_tensors(graph.program.module).items():
        first = graph.program.aliases[name] == name
        if first and name not in unused and isinstance(tensor, nn.Parameter):
            yield name, tensor


def random_kept(graph: DependencyGraph, seed: int = 0) -> Kept:
    """Remove :data:`RATIO` of every group's units at random, one at least where one can go."""
    generator = np.random.default_rng(seed)
    kept = graph.all_kept()
    for group in graph.groups:
        gone = generator.permutation(group.n_units)[: asked_of(group.n_units)]
        kept[group.first + gone] = False
    for needed in graph.needed:
        if not kept[needed].any():
            kept[generator.choice(needed)] = True
    return kept


def asked_of(units: int) -> int:
    """Return how many of a group's units shall go."""
    return min(max(round(RATIO * units), 1), units - 1)


# ---- exactness ----------------------------------------------------------------------------------


def _exactness(model: nn.Module, graph: DependencyGraph, kept: Kept, costs: CostModel) -> Values:
    """Compare masked, pruned, intact and zeroed network; the model itself is zeroed on the way.

    Every copy is freed before the next is made, so that two copies of the weights fit in memory
    where three would not. Masked and pruned are compared on all batch sizes, the others on one.
    """
    batches = [fresh(graph.example_inputs, size) for size in _sizes(graph)]
    with Widened():
        before = outputs(model, batches[:1])
    found: Values = {"intact_error": error(_intact(graph, batches[:1]), before)}
    zero(model, removed_entries(graph, kept))
    with Widened():
        zeroed = None if any(graph.statistics()) else outputs(model, batches[-1:])
    model.to("meta")
    masked = outputs(mask_network(graph, kept), batches)
    found |= {"moved": error(masked[:1], before), **_reached(graph, kept, costs)}
    smaller = cut(graph, kept)
    found["misfits"] = _misfits(model, graph, smaller, kept)
    pruned = outputs(smaller, batches)
    found["masked_error"] = error(masked, pruned)
    found["zeroed_error"] = None if zeroed is None else error(zeroed, pruned[-1:])
    return found


def _sizes(graph: DependencyGraph) -> tuple[int, ...]:
    return BATCHES if graph.program.dynamic_batch else (graph.batch_size,)


def _intact(graph: DependencyGraph, batches: list[Inputs]) -> Outputs:
    """Run the network with all gates in place and open; it shares the graph's weights."""
    gated = gated_module(graph).eval()
    gates = unit_gates(torch.from_numpy(graph.all_kept()), torch.float64)
    return outputs(gated, [(gates, *pytree.tree_leaves(batch)) for batch in batches])


def _reached(graph: DependencyGraph, kept: Kept, costs: CostModel) -> Values:
    before, after = costs.total(graph.all_kept()), costs.total(kept)
    return {
        "asked": sum(asked_of(group.n_units) for group in graph.groups),
        "reached": before.units - after.units,
        "read_params": before.params,
        "params_left": after.params,
    }


def _misfits(model: nn.Module, graph: DependencyGraph, pruned: PrunedModel, kept: Kept) -> int:
    """Return how many tensors of the model lack more, or less, than they should once pruned."""
    wrong, traced, smaller = 0, named_tensors(graph.program.module), named_tensors(pruned)
    removed = removed_entries(graph, kept)
    for name, tensor in named_tensors(model).items():
        gone = {dim: len(indices) for dim, indices in removed.get(name, {}).items()}
        expected = tuple(size - gone.get(dim, 0) for dim, size in enumerate(tensor.shape))
        wrong += name in traced and (name not in smaller or smaller[name].shape != expected)
    return wrong


def _status(values: Values) -> str:
    if not values["units"]:
        return "nothing prunable"
    errors = [values["intact_error"], values["masked_error"], values["zeroed_error"] or 0.0]
    return "exact" if max(errors) <= TOLERANCE and not values["misfits"] else "wrong"


# ---- ONNX ---------------------------------------------------------------------------------------


def _onnx(network: Network, kept: Kept) -> Values:
    """Export the network pruned by the same plan in float32, and compare."""
    try:
        model, inputs = network.build()
        graph = gp.trace(model, inputs)
        pruned = cut(graph, kept)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "pruned.onnx"
            gp.export_onnx(pruned, path)
            return {"onnx_error": _onnx_error(pruned, graph, path)}
    except Exception as failure:  # a cell of the table, whatever it is
        return {"onnx_failure": first_line(failure, 200)}


def _onnx_error(pruned: PrunedModel, graph: DependencyGraph, path: Path) -> float:
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    worst = 0.0
    for size in _sizes(graph):
        batch = fresh(graph.example_inputs, size)
        arrays = [leaf.numpy() for leaf in pytree.tree_leaves(batch)]
        found = session.run(None, dict(zip(names, arrays, strict=True)))
        expected = outputs(pruned, [batch])
        worst = max(worst, error([[torch.from_numpy(array) for array in found]], expected))
    return worst


# ---- tensors ------------------------------------------------------------------------------------


def doubled(inputs: Inputs) -> Inputs:
    """Return the inputs with floating tensors in float64."""

    def of(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    mapped: Inputs = pytree.tree_map(of, inputs)
    return mapped


def fresh(inputs: Inputs, size: int) -> Inputs:
    """Return random inputs of the same kinds with another batch size."""
    generator = torch.Generator().manual_seed(size)

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        shape = (size, *leaf.shape[1:])
        if leaf.is_floating_point():
            return torch.randn(shape, generator=generator, dtype=leaf.dtype)
        return torch.randint(0, int(leaf.max()) + 1, shape, generator=generator).to(leaf.dtype)

    mapped: Inputs = pytree.tree_map(of, inputs)
    return mapped


@torch.no_grad()
def outputs(module: nn.Module, batches: Sequence[Inputs]) -> Outputs:
    """Return all tensors that a module computes on some batches."""
    results = [pytree.tree_leaves(module(*batch)) for batch in batches]
    return [[leaf for leaf in leaves if isinstance(leaf, Tensor)] for leaves in results]


def error(left: Outputs, right: Outputs) -> float:
    """Return the largest difference relative to the scale of ``right``; NaN counts as infinite."""
    pairs = [pair for a, b in zip(left, right, strict=True) for pair in zip(a, b, strict=True)]
    return max((_difference(a, b) for a, b in pairs), default=math.inf)


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    scale = float(b.double().abs().max())
    difference = float((a.double() - b.double()).abs().max())
    if not math.isfinite(difference) or not math.isfinite(scale):
        return math.inf
    return difference / scale if scale else (math.inf if difference else 0.0)


@torch.no_grad()
def zero(model: nn.Module, removed: dict[str, dict[int, tuple[int, ...]]]) -> None:
    """Set every removed slice of a module's own tensors to zero."""
    tensors = named_tensors(model)
    for name, by_dim in removed.items():
        for dim, indices in by_dim.items():
            tensors[name].index_fill_(dim, torch.tensor(indices), 0)
