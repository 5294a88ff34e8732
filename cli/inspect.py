"""``graphprune inspect``: the groups of a network, what they cost, what is pinned and why."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphprune_cli import console, options

if TYPE_CHECKING:
    from graphprune.description import GroupFacts, MemberFacts, NetworkFacts, TensorFacts
    from graphprune.graph import PinnedAxis
    from graphprune.pipeline import Inspection, Subject

GraphPath = Annotated[
    Path | None,
    typer.Option(
        "--graph",
        metavar="FILE",
        help="Also write the dependency graph: .svg, .dot, .graphml or .json.",
    ),
]
Group = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        metavar="PATTERN",
        help="List every axis that units of these groups, or of these modules, live on.",
    ),
]
Pins = Annotated[bool, typer.Option("--pins", help="List every pinned axis.")]


@console.reported
def command(
    model: options.Model,
    graph: GraphPath = None,
    group: Group = None,
    pins: Pins = False,
    only: options.Only = None,
    skip: options.Skip = None,
    unpin_output: options.UnpinOutput = False,
    weights: options.Weights = None,
    input_shape: options.InputShape = None,
    trust: options.Trust = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List a network's pruning groups, what a unit of each costs, and what is pinned and why."""
    source = options.model_source(model, weights, input_shape)
    from graphprune import pipeline

    common = pipeline.Common(trust=trust, unpin_outputs=options.unpinned(unpin_output))
    subject = pipeline.prepare(source, None, common)
    settings = pipeline.RankOptions(only=tuple(only or ()), skip=tuple(skip or ()))
    view = pipeline.inspect(subject, settings, tuple(group or ()))
    if graph is not None:
        from graphprune.couplings import write_graph

        write_graph(subject.graph, graph)
    console.note(subject.notes, quiet=quiet)
    if as_json:
        console.print_json(_document(subject, view))
        return
    if group:
        _show_members(view)
    else:
        _show(subject, view, pins=pins)
    if graph is not None:
        console.say(f"wrote {graph}")


# ---- for machines -------------------------------------------------------------------------------


def _document(subject: Subject, view: Inspection) -> dict[str, Any]:
    facts = view.facts
    return {
        "model": subject.model.spec,
        "model_hash": subject.model.sha256,
        "input_shapes": [list(shape) for shape in subject.model.input_shapes],
        "inputs": [asdict(tensor) for tensor in facts.inputs],
        "outputs": [asdict(tensor) for tensor in facts.outputs],
        "cost": facts.cost.by_name(),
        "prunable": asdict(facts.prunable),
        "groups": [
            {**asdict(group), "protected": group.name in view.protected} for group in view.groups
        ],
        "pinned": [_pin(pin) for pin in facts.pinned],
        "unknown_ops": dict(subject.graph.unknown_ops),
        "unknown": [asdict(op) for op in facts.unknown],
        "unused": list(facts.unused),
        "seconds": {stage: round(time, 3) for stage, time in subject.timings.items()},
    }


def _pin(pin: PinnedAxis) -> dict[str, Any]:
    found = asdict(pin)
    return {"pinned" if key == "n_pinned" else key: value for key, value in found.items()}


# ---- for people ---------------------------------------------------------------------------------

_SOME = 8
"""How many names a line gives where nobody has asked for all."""


def _show(subject: Subject, view: Inspection, *, pins: bool) -> None:
    _show_summary(subject, view.facts)
    if view.groups:
        columns = ["group", "units", "one is a", "params/unit", "MACs/unit", "axes"]
        console.print_listing("groups", columns, _rows(view))
        console.say("axes: how many produce, read and pass on the units; --group NAME lists them")
        console.say()
    if view.facts.pinned:
        _show_pins(view.facts.pinned, everything=pins)
    _show_left_out(view.facts)


def _show_summary(subject: Subject, facts: NetworkFacts) -> None:
    cost, share = facts.cost, facts.prunable
    console.say(
        f"{subject.model.spec}: {console.thousands(cost.params)} parameters, "
        f"{console.thousands(cost.macs)} MACs"
    )
    for label, tensors in (("input", facts.inputs), ("output", facts.outputs)):
        for tensor in tensors:
            console.say(f"{label:6} {_tensor(tensor)}")
    console.say(f"groups: {len(facts.groups)}, units: {console.thousands(cost.units)}")
    console.say(
        f"prunable: {_floored(share.params)} of the parameters, {_floored(share.macs)} of the MACs"
    )


def _floored(share: float) -> str:
    """Write a share rounded down: 100 % only where it is all."""
    return f"{math.floor(share * 10_000) / 100:.2f} %"


def _tensor(tensor: TensorFacts) -> str:
    shape = ", ".join(str(size) for size in tensor.shape)
    note = ", may shrink" if tensor.unpinned else ""
    return f"{tensor.name}: ({shape}) {tensor.dtype}{note}"


def _rows(view: Inspection) -> list[list[str]]:
    """Return a row for every group; groups that differ in numbers of their names share one."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for group in view.groups:
        figures = (
            str(group.units),
            _kind(group),
            console.compact(group.params_per_unit),
            console.compact(group.macs_per_unit),
            _roles(group),
        )
        left_alone = " (left alone)" if group.name in view.protected else ""
        key = (_NUMBER.sub("#", group.name), left_alone, *figures)
        alike.setdefault(key, []).append(group.name)
    return [
        [_pattern_of(names) + left_alone, *figures]
        for (_, left_alone, *figures), names in alike.items()
    ]


_NUMBER = re.compile(r"\d+")


def _pattern_of(names: Sequence[str]) -> str:
    """Return the one name, or the pattern that all match and how many they are."""
    if len(names) == 1:
        return names[0]
    parts = zip(*(re.split(r"(\d+)", name) for name in names), strict=True)
    pattern = "".join(found[0] if len(set(found)) == 1 else "*" for found in parts)
    return f"{pattern} ({len(names)} alike)"


def _kind(group: GroupFacts) -> str:
    entries = group.entries_per_unit
    return group.kind if entries == 1 else f"{group.kind} of {entries or 'some'}"


def _roles(group: GroupFacts) -> str:
    """Count the axes that produce, consume and follow."""
    roles = [member.role for member in group.members]
    return "+".join(str(roles.count(role)) for role in ("producer", "consumer", "follower"))


def _show_pins(pins: Sequence[PinnedAxis], *, everything: bool) -> None:
    """Say why and where axes are pinned, and which."""
    places: dict[tuple[str, str], list[PinnedAxis]] = {}
    for pin in pins:
        where = console.place(pin.module, pin.source)
        places.setdefault((pin.reason, where), []).append(pin)
    console.say("pinned: may not be pruned")
    for (reason, where), found in places.items():
        console.say_wrapped(f"{reason} ({where})" if where else reason, indent="  ")
        shown = found if everything else found[:_SOME]
        more = [f"and {len(found) - len(shown)} more (--pins)"] if len(shown) < len(found) else []
        axes = "axis" if len(found) == 1 else "axes"
        console.say_list(f"{len(found)} {axes}", [*map(_axis, shown), *more], indent="    ")
    console.say()


def _axis(pin: PinnedAxis) -> str:
    part = "" if pin.n_pinned == pin.size else f" ({pin.n_pinned} of {pin.size})"
    return f"{pin.parameter}:{pin.dim}{part}"


def _show_left_out(facts: NetworkFacts) -> None:
    if facts.unknown:
        console.say("ops without a rule: what enters them is pinned")
        for op in facts.unknown:
            console.say_wrapped(
                f"{op.op} ({console.place(op.module, op.source) or op.node})", indent="  "
            )
    if facts.unused:
        console.say_list(f"not used in evaluation mode ({len(facts.unused)})", facts.unused[:_SOME])


# ---- one group ----------------------------------------------------------------------------------


def _show_members(view: Inspection) -> None:
    for group in view.groups:
        console.say(group.name)
        console.say_wrapped(
            f"{group.units} units, one is a {_kind(group)}; {console.compact(group.params)} "
            f"parameters and {console.compact(group.macs)} MACs lie on them",
            indent="  ",
        )
        for members in _read_together(group.members):
            _show_member(members)
        console.say()


def _read_together(members: Sequence[MemberFacts]) -> list[list[MemberFacts]]:
    """Gather the tensors of one module that are read alike (a norm's four)."""
    found: dict[tuple[object, ...], list[MemberFacts]] = {}
    for member in members:
        module = member.parameter.rpartition(".")[0]
        alike = (member.dim, member.role, member.size, member.entries_per_unit)
        found.setdefault((module, *alike, member.op, member.source), []).append(member)
    return list(found.values())


def _show_member(members: Sequence[MemberFacts]) -> None:
    first = members[0]
    module, _, leaf = first.parameter.rpartition(".")
    leaves = sorted(member.parameter.rpartition(".")[2] for member in members)
    names = leaf if len(leaves) == 1 else "{" + ",".join(leaves) + "}"
    axis = f"{module}.{names}" if module else names
    per_unit = f", {first.entries_per_unit or 'some'} a unit" if first.entries_per_unit != 1 else ""
    op = first.op.removeprefix("aten.").partition(".")[0]
    console.say(f"  {first.role:8}  {axis}:{first.dim} ({first.size}{per_unit})")
    reader = ", ".join(part for part in (op, console.place("", first.source)) if part)
    console.say_wrapped(reader, indent=" " * 12)
