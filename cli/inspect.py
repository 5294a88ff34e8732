"""``graphprune inspect``: the groups of a network, what they cost, what is pinned and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphprune_cli import console, options

if TYPE_CHECKING:
    from graphprune.pipeline import Subject

GraphPath = Annotated[
    Path | None,
    typer.Option(
        "--graph",
        metavar="FILE",
        help="Also write the dependency graph: .svg, .dot, .graphml or .json.",
    ),
]


@console.reported
def command(
    model: options.Model,
    graph: GraphPath = None,
    weights: options.Weights = None,
    input_shape: options.InputShape = None,
    trust: options.Trust = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List a network's pruning groups, what a unit of each costs, and what is pinned and why."""
    source = options.model_source(model, weights, input_shape)
    from graphprune import pipeline

    subject = pipeline.prepare(source, None, pipeline.Common(trust=trust))
    if graph is not None:
        from graphprune.couplings import write_graph

        write_graph(subject.graph, graph)
    console.note(subject.notes, quiet=quiet)
    document = describe(subject)
    if as_json:
        console.print_json(document)
        return
    _show(document)
    if graph is not None:
        console.say(f"wrote {graph}")


def describe(subject: Subject) -> dict[str, Any]:
    """Return groups, costs and pins as plain JSON types."""
    from graphprune.cost import CostModel

    graph = subject.graph
    costs = CostModel(graph)
    params, macs = costs.marginal("params"), costs.marginal("macs")
    total = costs.total(graph.all_kept())
    return {
        "model": subject.model.spec,
        "model_hash": subject.model.sha256,
        "input_shapes": [list(shape) for shape in subject.model.input_shapes],
        "cost": {"units": total.units, "params": total.params, "macs": total.macs},
        "groups": [
            {
                "name": group.name,
                "units": group.n_units,
                "params_per_unit": float(params[group.span].mean()),
                "macs_per_unit": float(macs[group.span].mean()),
                "members": [
                    {"parameter": m.parameter, "dim": m.dim, "role": m.role} for m in group.members
                ],
            }
            for group in graph.groups
        ],
        "pinned": [
            {
                "parameter": pin.parameter,
                "dim": pin.dim,
                "size": pin.size,
                "pinned": pin.n_pinned,
                "reason": pin.reason,
                "op": pin.op,
                "module": pin.module,
                "source": pin.source,
            }
            for pin in graph.pinned
        ],
        "unknown_ops": dict(graph.unknown_ops),
        "seconds": {stage: round(time, 3) for stage, time in subject.timings.items()},
    }


def _show(document: dict[str, Any]) -> None:
    cost = document["cost"]
    console.say(
        f"{document['model']}: {console.thousands(cost['params'])} parameters, "
        f"{console.thousands(cost['macs'])} MACs, {len(document['groups'])} groups, "
        f"{console.thousands(cost['units'])} units"
    )
    rows = [
        [
            group["name"],
            str(group["units"]),
            console.thousands(group["params_per_unit"]),
            console.thousands(group["macs_per_unit"]),
            _roles(group["members"]),
        ]
        for group in document["groups"]
    ]
    columns = ["group", "units", "params/unit", "MACs/unit", "made+read+carried"]
    console.print_table("groups", columns, rows)
    if document["pinned"]:
        console.print_table(
            "pinned: may not be pruned",
            ["axis", "entries", "why", "where"],
            [
                [
                    f"{pin['parameter']}:{pin['dim']}",
                    f"{pin['pinned']}/{pin['size']}",
                    pin["reason"],
                    pin["source"] or pin["module"] or pin["op"],
                ]
                for pin in document["pinned"]
            ],
            numbers=False,
        )


def _roles(members: list[dict[str, Any]]) -> str:
    """Count the axes that produce, consume and follow."""
    roles = [member["role"] for member in members]
    return "+".join(str(roles.count(role)) for role in ("producer", "consumer", "follower"))
