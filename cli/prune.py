"""``graphprune prune``: remove units, repair, export, validate."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphprune_cli import console, options
from graphprune_cli.rank import data_notes
from graphprune_cli.validate import check_rows, say_divergence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graphprune.artifacts import (
        ChoiceRecord,
        ExchangeRecord,
        FaithfulnessRecord,
        FidelityRecord,
        HeldOutRecord,
        LatencyRecord,
        StepRecord,
        WeighingRecord,
    )
    from graphprune.pipeline import Pruned, Selected
    from graphprune.selection import PruningPlan

Ratio = Annotated[
    float, typer.Option("--ratio", metavar="R", help="Fraction to remove, in [0, 1).")
]
Of = Annotated[
    str, typer.Option("--of", help="What the ratio is of: units, params, macs or latency.")
]
Scope = Annotated[
    str,
    typer.Option(
        "--scope",
        help="group: the same fraction of each; global: one ranking by score per cost; "
        "auto: group for units, else global.",
    ),
]
MinUnits = Annotated[
    int, typer.Option("--min-units", metavar="N", help="Units that every group keeps.")
]
RoundTo = Annotated[
    int, typer.Option("--round-to", metavar="N", help="Keep multiples of N units per group.")
]
RankingPath = Annotated[
    Path | None,
    typer.Option("--ranking", metavar="FILE", help="A ranking.json other than DIR's."),
]
Steps = Annotated[
    int,
    typer.Option("--steps", metavar="N", help="Rank and remove a part, N times, repaired between."),
]
Exchange = Annotated[
    bool | None,
    typer.Option(
        "--exchange/--no-exchange",
        help="Let units trade places while what is kept plays better; by default where no "
        "repair follows.",
    ),
]
Criterion = Annotated[
    str,
    typer.Option(
        "--criterion",
        metavar="NAME",
        help="As for rank, or auto: the best of several by what held-out images say.",
    ),
]
Repair = Annotated[
    str,
    typer.Option(
        "--repair",
        metavar="METHOD",
        help="auto (the best of least-squares and batchnorm where there is data), least-squares, "
        "bias, batchnorm, distill or none.",
    ),
]


@console.reported
def command(
    ratio: Ratio,
    model: options.OptionalModel = None,
    data: options.Data = None,
    of: Of = "units",
    scope: Scope = "auto",
    min_units: MinUnits = 1,
    round_to: RoundTo = 1,
    steps: Steps = 1,
    exchange: Exchange = None,
    ranking: RankingPath = None,
    repair: Repair = "auto",
    threads: options.Threads = None,
    batch: options.Batch = None,
    criterion: Criterion = "shapley",
    game: options.Game = None,
    estimator: options.Estimator = "auto",
    value: options.Value = None,
    aggregate: options.Aggregate = None,
    semivalue: options.Semivalue = "shapley",
    budget: options.Budget = None,
    seconds: options.Seconds = None,
    until_stable: options.UntilStable = None,
    only: options.Only = None,
    skip: options.Skip = None,
    unpin_output: options.UnpinOutput = False,
    weights: options.Weights = None,
    input_shape: options.InputShape = None,
    mean: options.Mean = None,
    std: options.Std = None,
    resize: options.Resize = None,
    limit: options.Limit = None,
    out: options.Out = Path("graphprune-out"),
    seed: options.Seed = 0,
    device: options.Device = "auto",
    max_memory: options.MaxMemory = "2GB",
    precision: options.Precision = "float32",
    trust: options.Trust = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    plots: options.Plots = "none",
) -> None:
    """Remove units, repair the rest, export it to ONNX and prove the file right.

    Without MODEL, the model, its data and its ranking are taken from DIR (see `graphprune rank`).
    """
    if model is None and (weights or input_shape):
        raise typer.BadParameter("--weights and --input-shape need MODEL")
    if of != "latency" and (threads or batch):
        raise typer.BadParameter("--threads and --batch need --of latency")
    source = None if model is None else options.model_source(model, weights, input_shape)
    images = options.data_source(data, mean, std, resize, limit)
    from graphprune import pipeline
    from graphprune.figures import check_plots

    check_plots(plots)
    rank_options = pipeline.RankOptions(
        criterion=criterion,
        game=game,
        estimator=estimator,
        value=value,
        aggregate=aggregate,
        semivalue=semivalue,
        budget=budget,
        seconds=seconds,
        until_stable=until_stable,
        only=tuple(only or ()),
        skip=tuple(skip or ()),
    )
    prune_options = pipeline.PruneOptions(
        ratio=ratio,
        of=of,
        scope=scope,
        min_units=min_units,
        round_to=round_to,
        repair=repair,
        ranking=ranking,
        latency=pipeline.LatencyOptions(threads=threads, batch=batch),
        steps=steps,
        plots=plots,
        exchange=exchange,
    )
    with (
        console.progress_bar(quiet=quiet or console.follows()) as progress,
        ExitStack() as folder,
    ):
        with console.together(device) as ranks:
            common = pipeline.Common(
                out=out,
                seed=seed,
                device=device,
                max_memory=options.memory(max_memory),
                precision=precision,
                trust=trust,
                argv=tuple(sys.argv),
                dry_run=dry_run,
                unpin_outputs=options.unpinned(unpin_output),
                progress=progress,
                ranks=ranks,
            )
            folder.enter_context(pipeline.holding(common))
            selected = pipeline.plan_run(source, images, rank_options, prune_options, common)
        if not ranks.leads:
            return
        pruned = None if dry_run else pipeline.carry_out(selected, prune_options, common)
    console.note(selected.subject.notes, quiet=quiet)
    if source is not None and ranking is None and selected.choice is None:
        console.note(data_notes(selected.subject, rank_options), quiet=quiet)
    console.note(pipeline.plan_notes(selected, prune_options), quiet=quiet)
    if pruned is None:
        _show_plan(selected, as_json=as_json)
        return
    _show(pruned, as_json=as_json)
    if not pruned.report.ok:
        raise typer.Exit(1)


def plan_summary(plan: PruningPlan) -> dict[str, Any]:
    """Return what a plan asks, reaches and costs as plain JSON types."""
    return {
        "of": plan.of,
        "scope": plan.scope,
        "asked": plan.asked,
        "reached": plan.reached,
        "cost": {
            name: cost.by_name() for name, cost in (("before", plan.before), ("after", plan.after))
        },
        "groups": [
            {"name": g.name, "units": g.units, "removed_units": list(g.removed_units)}
            for g in plan.groups
        ],
    }


def cost_rows(plan: PruningPlan) -> list[list[str]]:
    """Return the costs before and after as rows of a table."""
    rows = []
    for label, kind in (("units", "units"), ("parameters", "params"), ("MACs", "macs")):
        before, after = plan.before.of(kind), plan.after.of(kind)
        gone = console.percent(1 - after / before) if before else "-"
        rows.append([label, console.thousands(before), console.thousands(after), gone])
    if plan.before.latency and plan.after.latency:
        before, after = 1e3 * plan.before.latency, 1e3 * plan.after.latency
        gone = console.percent(plan.reached if plan.of == "latency" else 1 - after / before)
        rows.append(["latency (ms)", f"{before:.3g}", f"{after:.3g}", gone])
    return rows


def _show_plan(selected: Selected, *, as_json: bool) -> None:
    from graphprune.artifacts import as_json as plain
    from graphprune.pipeline import (
        choice_record,
        exchange_record,
        step_record,
        weighing_record,
    )

    plan, choice = selected.plan, choice_record(selected.choice)
    if as_json:
        steps = [plain(step_record(step)) for step in selected.steps]
        found = None if choice is None else plain(choice)
        weighing = weighing_record(selected.weighed)
        exchange = exchange_record(selected.exchanged)
        summary = {
            **plan_summary(plan),
            "steps": steps,
            "candidates": found,
            "weighing": None if weighing is None else plain(weighing),
            "exchange": None if exchange is None else plain(exchange),
        }
        console.print_json({"dry_run": True, **summary})
        return
    _show_search(choice, tuple(map(step_record, selected.steps)), plan.of)
    _say_weighing(weighing_record(selected.weighed))
    _say_exchange(exchange_record(selected.exchanged))
    console.print_table("would remove", ["", "before", "after", "removed"], cost_rows(plan))
    console.say(_asked(plan))


def _show_search(choice: ChoiceRecord | None, steps: Sequence[StepRecord], of: str) -> None:
    """Show how a plan was found: candidates, the best first, and steps."""
    if choice is not None:
        rows = [
            [each.criterion, _nats(each.fidelity), _share(each.fidelity.agreement)]
            for each in choice.candidates
        ]
        title = f"candidates, on {choice.n_images:,} images held out"
        console.print_table(title, ["criterion", "divergence", "agreement"], rows)
    if steps:
        reached = "reached, the last as measured" if of == "latency" else "reached"
        rows = [
            [str(n), console.percent(step.reached), console.thousands(step.units)]
            for n, step in enumerate(steps, 1)
        ]
        console.print_table("steps", ["step", reached, "units removed"], rows)


def _say_exchange(found: ExchangeRecord | None) -> None:
    """Say what trading places gained."""
    if found is not None:
        console.say(
            f"exchange: {found.value} {found.gain} "
            f"({found.evaluations:,} coalitions, {found.n_images:,} images)"
        )


def _say_weighing(found: WeighingRecord | None) -> None:
    """Say how far scores look ahead, the weight that is kept first."""
    if found is not None:
        images = f"{found.n_images:,} images"
        title = f"weight of the refit game and what the repair leaves ({images})"
        console.say_list(title, found.told)


def _nats(record: FidelityRecord) -> str:
    return "infinite" if record.kl is None else f"{record.kl:.3f} nats"


def _share(fraction: float | None) -> str:
    return "-" if fraction is None else console.percent(fraction)


def _asked(plan: PruningPlan) -> str:
    return (
        f"asked {console.percent(plan.asked)} of the {plan.of}, "
        f"reached {console.percent(plan.reached)}"
    )


def _say_faithful(found: FaithfulnessRecord, held_out: HeldOutRecord | None) -> None:
    """Say how near the network is to the unpruned one, as cut and as repaired."""
    records = [("as cut", found.cut, f" ({found.n_images:,} images)")]
    if found.repaired != found.cut:
        records.append(("repaired with them", found.repaired, ""))
    for name, record, images in records:
        same = record.agreement
        agree = "" if same is None else f", {console.percent(same)} of predictions the same"
        console.say(f"{name}: divergence {_nats(record)}{agree}{images}")
    if held_out is not None:
        console.say(
            f"repaired without {held_out.n_images:,} of them: divergence there {held_out.told}"
        )


def _measured(latency: LatencyRecord) -> str:
    gain = latency.speedup
    return (
        f"pruned.onnx is {gain.median:.2f} times ({gain.low:.2f} to {gain.high:.2f}) as fast as "
        f"original.onnx\n"
        f"threads: {latency.threads}, batch: {latency.batch}, provider: {latency.provider}"
    )


def _show(pruned: Pruned, *, as_json: bool) -> None:
    from graphprune.artifacts import as_json as plain

    manifest, plan = pruned.manifest, pruned.plan
    if as_json:
        console.print_json(
            {"out": str(pruned.folder.path), **plan_summary(plan), "manifest": plain(manifest)}
        )
        return
    _show_search(manifest.candidates, manifest.steps, plan.of)
    _say_weighing(manifest.weighing)
    _say_exchange(manifest.exchange)
    rows = cost_rows(plan)
    if manifest.accuracy is not None:
        before, after = manifest.accuracy.before, manifest.accuracy.after
        gone = f"{100 * (before - after):.1f} points"
        rows.append(
            ["accuracy (calibration)", console.percent(before), console.percent(after), gone]
        )
    console.print_table("pruned", ["", "before", "after", "removed"], rows)
    console.say(f"{_asked(plan)}; repair: {manifest.repair.method}")
    if manifest.fidelity is not None:
        _say_faithful(manifest.fidelity, manifest.repair.held_out)
    if manifest.latency is not None:
        console.say(_measured(manifest.latency))
    console.print_table(
        "validation", ["check", "", "error"], check_rows(pruned.report), numbers=False
    )
    if pruned.report.divergence is not None:
        say_divergence(pruned.report.divergence, ())
    console.say_list("seconds", [f"{k} {v:.1f}" for k, v in manifest.timings.items()])
    plots = ", plots/" if pruned.plots else ""
    console.say(f"wrote {pruned.folder.path}/: pruned.onnx, pruned.pt2, report.html{plots}, ...")
