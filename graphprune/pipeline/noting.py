"""Notes on a plan: what a user should know of it, in the terminal, the manifest and the report."""

from __future__ import annotations

import numpy as np

from graphprune.candidates import Choice
from graphprune.graph import DependencyGraph, Kept
from graphprune.latency.layers import Layer, layers_of
from graphprune.pipeline.options import PruneOptions
from graphprune.pipeline.planning import Selected, share_of_macs
from graphprune.ranking import REFITTING
from graphprune.selection import PruningPlan

_SLACK = 0.05
"""By how much more may go than a ranking was made for without a note."""

_BLOCK = 4
"""onnxruntime's fast kernel for depthwise convolutions on CPUs takes multiples of so many channels.

As measured: 64 channels of 28 x 28 take 15 microseconds, and 60 take 16, 62 take 95.
"""


def plan_notes(selected: Selected, options: PruneOptions) -> tuple[str, ...]:
    """Return everything that is worth saying of a plan."""
    return (
        *choice_notes(selected.choice),
        *fitness_notes(selected, options),
        *width_notes(selected.subject.graph, selected.plan),
    )


def choice_notes(choice: Choice | None) -> tuple[str, ...]:
    """Say which criterion was kept, and by how much."""
    if choice is None:
        return ()
    best, *others = choice.candidates
    note = (
        f"criterion auto kept {best.criterion}: {best.divergence:.3g} nats from the unpruned "
        f"network on {choice.n_images} images held out"
    )
    if others:
        note += f"; next is {others[0].criterion} with {others[0].divergence:.3g}"
    if choice.plan.of == "latency":
        note += "; all of them as the latency is predicted, the best was then measured"
    return (note,)


def fitness_notes(selected: Selected, options: PruneOptions) -> tuple[str, ...]:
    """Say so where a ranking was made for less than goes, or for a repair that does not follow."""
    ranking, plan, notes = selected.ranking, selected.plan, []
    removed = 1 - plan.after.macs / max(plan.before.macs, 1)
    # Coarse units may take more than was asked for; that is nobody's mistake.
    removed = min(removed, share_of_macs(options.ratio, options.of))
    if ranking.for_ratio is not None and removed > ranking.for_ratio + _SLACK:
        notes.append(
            f"{removed:.0%} of the MACs go, and the ranking was made for up to "
            f"{ranking.for_ratio:.0%}: rank again with --for-ratio {removed:.2g}"
        )
    follows = "none" if selected.subject.data is None else options.repair
    ahead = ranking.for_repair == "least-squares" and selected.weighed is None
    if ahead and follows not in REFITTING:
        notes.append(
            f"the ranking looks ahead to a repair by least squares, and the repair is {follows}: "
            "rank again with --for-repair none"
        )
    return tuple(notes)


def width_notes(graph: DependencyGraph, plan: PruningPlan) -> tuple[str, ...]:
    """Say so where depthwise convolutions lose the kernel that makes them fast.

    Multiply-accumulates do not see it, and a network of many such layers gets slower by losing
    units. A plan for a latency is not looked at: its widths were chosen, and measured, by time.
    """
    if plan.of == "latency":
        return ()
    kept = plan.kept(graph)
    depthwise = [layer for layer in layers_of(graph).values() if _is_depthwise(layer)]
    slow = [layer for layer in depthwise if not _fits(layer, kept)]
    if not slow:
        return ()
    return (
        f"{len(slow)} of {len(depthwise)} depthwise convolutions keep a number of channels that is "
        f"no multiple of {_BLOCK}, for which onnxruntime has no fast kernel on CPUs: the pruned "
        "network may be slower than the unpruned one. Prune with --round-to 8 or --of latency, and "
        "time the file with `graphprune bench`",
    )


def _is_depthwise(layer: Layer) -> bool:
    """Whether the fast kernel computes it now: of two spatial dims, a filter for every channel."""
    shape = layer.shape
    one_each = shape.family == "depthwise" and shape.outputs == shape.groups
    return one_each and len(shape.kernel) == 2 and shape.outputs % _BLOCK == 0


def _fits(layer: Layer, kept: Kept) -> bool:
    """Whether the fast kernel computes what is kept of it."""
    units = layer.outputs.units
    if units is None:
        return True
    return int(np.count_nonzero((units < 0) | kept[units])) % _BLOCK == 0
