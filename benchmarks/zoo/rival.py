"""torch-pruning on the same networks, by the recipe of its README, and whether its result is right.

A pruner that slices the layers of the module itself is right if the smaller module computes what
the original computes with the lost slices set to zero. Which slices were lost is read off the
weights: all of them are distinct random numbers. Where a statistic (a LayerNorm's, say) runs over
a pruned axis the two differ by definition; those networks are only run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import first_line
from graphprune.tracing import named_tensors
from zoo.catalogue import Inputs, Network
from zoo.checks import RATIO, TOLERANCE, Row, Values, Widened, doubled, error, outputs, zero

Removed = dict[str, dict[int, tuple[int, ...]]]


def rival(network: Network, statistics: bool, tell: Callable[[Values], None]) -> None:
    """Prune one network with torch-pruning and tell the results.

    Args:
        network: Which.
        statistics: Whether its forward takes statistics over prunable axes, so that only running
            the result says anything.
        tell: Called with every new part of the results.
    """
    row = Row(tell)
    try:
        _rival(network, statistics, row)
    except MemoryError:
        row.add(status="memory", error="the memory limit")
    except Exception as failure:  # a cell of the table, whatever it is
        row.add(status="failed", error=first_line(failure, 200))


def _rival(network: Network, statistics: bool, row: Row) -> None:
    model, inputs = network.build()
    state = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    before = _count(model)
    with row.timed("prune"):
        _prune(model, inputs)
    row.add(stage="run", params_removed=1 - _count(model) / before)
    result = outputs(model, [inputs])
    if _count(model) == before:
        row.add(status="nothing pruned")
    elif _resized(network, inputs, result):
        row.add(status="wrong", error="the outputs themselves were pruned")
    elif statistics:
        row.add(status="runs")
    else:
        row.add(**_judged(network, model, inputs, state))


def _prune(model: nn.Module, inputs: Inputs) -> None:
    """Prune as the README says, with the widths of the outputs left alone."""
    import torch_pruning as tp

    pruner = tp.pruner.BasePruner(
        model,
        inputs if len(inputs) > 1 else inputs[0],
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=list(output_layers(model, inputs)),
    )
    pruner.step()


def output_layers(model: nn.Module, inputs: Inputs) -> Iterator[nn.Module]:
    """Yield the layers that make the outputs: those whose width is a width of an output.

    Heads of detectors rearrange what their last layers make; those are known by name.
    """
    leaves = [leaf for batch in outputs(model, [inputs]) for leaf in batch]
    widths = {size for leaf in leaves for size in (leaf.shape[-1], *leaf.shape[1:2])}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            width = module.weight.shape[0]
            if width in widths or any(part in name for part in _PREDICTORS):
                yield module


_PREDICTORS = ("cls_logits", "bbox_", "module_list", "classification_head", "cls_score")


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _resized(network: Network, inputs: Inputs, result: list[list[Tensor]]) -> bool:
    original, _ = network.build()
    expected = outputs(original, [inputs])
    shapes = [[leaf.shape for leaf in batch] for batch in (expected[0], result[0])]
    return shapes[0] != shapes[1]


# ---- is it right? -------------------------------------------------------------------------------


def _judged(
    network: Network, pruned: nn.Module, inputs: Inputs, state: dict[str, Tensor]
) -> Values:
    removed = lost(state, named_tensors(pruned))
    if removed is None:
        return {"status": "runs", "error": "what it removed cannot be told from the weights"}
    original, _ = network.build()
    zero(original, removed)
    batches = [doubled(inputs)]
    with Widened():
        found = error(outputs(pruned.double(), batches), outputs(original.double(), batches))
    return {"status": "right" if found <= TOLERANCE else "wrong", "zeroed_error": found}


def lost(before: dict[str, Tensor], after: dict[str, Tensor]) -> Removed | None:
    """Return which slices of every tensor are missing, None if that cannot be told."""
    removed: Removed = {}
    for name, tensor in after.items():
        old = before.get(name)
        if old is None or old.dim() != tensor.dim():
            return None
        kept = _kept(old, tensor.detach())
        if kept is None:
            return None
        for dim, indices in enumerate(kept):
            gone = sorted(set(range(old.shape[dim])) - set(indices))
            if gone:
                removed.setdefault(name, {})[dim] = tuple(gone)
    return removed


def _kept(old: Tensor, new: Tensor) -> list[list[int]] | None:
    """Return which entries of ``old`` make up ``new``, by dim."""
    if old.shape == new.shape:
        return [list(range(size)) for size in old.shape]
    if not new.numel():
        return None
    anchor = new[(0,) * new.dim()]
    for place in torch.nonzero(old == anchor).tolist():
        kept = [
            _embedded(_line(old, place, dim), _line(new, [0] * new.dim(), dim))
            for dim in range(old.dim())
        ]
        if all(kept) and torch.equal(_picked(old, kept), new):
            return kept
    return None


def _line(tensor: Tensor, place: list[int], dim: int) -> list[float]:
    index: list[Any] = list(place)
    index[dim] = slice(None)
    entries: list[float] = tensor[tuple(index)].tolist()
    return entries


def _embedded(long: list[float], short: list[float]) -> list[int]:
    """Return the places in ``long`` of the entries of ``short``, in order; empty if it has not."""
    places, start = [], 0
    for entry in short:
        try:
            start = long.index(entry, start) + 1
        except ValueError:
            return []
        places.append(start - 1)
    return places


def _picked(tensor: Tensor, kept: list[list[int]]) -> Tensor:
    for dim, indices in enumerate(kept):
        tensor = tensor.index_select(dim, torch.tensor(indices))
    return tensor
