"""``graphprune compare``: criteria side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphprune_cli import console, options

if TYPE_CHECKING:
    from graphprune.comparison import Comparison, Mean, SetsOfUnits, Summary
    from graphprune.pipeline import Compared, Prepared

Criteria = Annotated[
    str,
    typer.Option(
        "--criteria",
        metavar="NAMES",
        help="Criteria, with commas between; with settings as shapley@game=group@budget=50.",
    ),
]
Ratios = Annotated[
    str, typer.Option("--ratios", metavar="R,R,...", help="Fractions to remove, in [0, 1).")
]
Seeds = Annotated[
    str,
    typer.Option("--seeds", metavar="N|S,S,...", help="How many, or a list of them."),
]
Repairs = Annotated[
    str,
    typer.Option(
        "--repairs", metavar="NAMES", help="Repairs to try; none: as cut, auto: what prune does."
    ),
]
EvalData = Annotated[
    str | None,
    typer.Option(
        "--eval-data", metavar="DATA", help="Images that judge; else a third of --data does."
    ),
]
EvalLimit = Annotated[
    int | None,
    typer.Option("--eval-limit", metavar="N", min=1, help="Judge on the first N of --eval-data."),
]
Calibration = Annotated[
    int | None,
    typer.Option(
        "--calibration",
        metavar="N",
        min=1,
        help="Images that each seed draws to rank and repair with: 3/4 of those that do not judge.",
    ),
]
NoLabels = Annotated[
    bool, typer.Option("--no-labels", help="Hide labels from criteria; the judge sees them.")
]
NoFloor = Annotated[bool, typer.Option("--no-floor", help="Leave out random, unless it is named.")]
Robustness = Annotated[
    bool,
    typer.Option("--robustness", help="Also mask one group at a time, lowest score first."),
]
Points = Annotated[
    int, typer.Option("--points", metavar="N", min=1, help="Points of a robustness curve.")
]
OracleGroups = Annotated[
    list[str] | None,
    typer.Option(
        "--oracle",
        metavar="PATTERN",
        help="Place removed sets among all sets of these groups; auto: the two smallest.",
    ),
]
Sets = Annotated[
    int,
    typer.Option("--sets", metavar="N", min=1, help="Sets of one size that are measured at most."),
]
Of = Annotated[str, typer.Option("--of", help="What ratios are of: units, params or macs.")]
Scope = Annotated[str, typer.Option("--scope", help="auto, global or group, as for prune.")]
MinUnits = Annotated[
    int, typer.Option("--min-units", metavar="N", help="Units that every group keeps.")
]
RoundTo = Annotated[
    int, typer.Option("--round-to", metavar="N", help="Keep multiples of N units per group.")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with what DIR holds; more may be asked than before."),
]


@console.reported
def command(
    model: options.Model,
    data: options.Data = None,
    criteria: Criteria = "shapley,taylor,group-magnitude",
    ratios: Ratios = "0.1,0.3,0.5",
    seeds: Seeds = "3",
    repairs: Repairs = "none,auto",
    eval_data: EvalData = None,
    eval_limit: EvalLimit = None,
    calibration: Calibration = None,
    no_labels: NoLabels = False,
    no_floor: NoFloor = False,
    of: Of = "macs",
    scope: Scope = "auto",
    min_units: MinUnits = 1,
    round_to: RoundTo = 1,
    robustness: Robustness = False,
    points: Points = 16,
    oracle: OracleGroups = None,
    sets: Sets = 1000,
    plots: options.Plots = "svg",
    resume: Resume = False,
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
) -> None:
    """Compare criteria: rank, prune and repair with each, and judge on other images.

    Writes DIR/compare.json after every step, DIR/rankings and DIR/plots.
    """
    source = options.model_source(model, weights, input_shape)
    images = options.data_source(data, mean, std, resize, limit)
    if eval_data is None and eval_limit is not None:
        raise typer.BadParameter("--eval-limit without --eval-data")
    judges = (
        None if eval_data is None else options.data_source(eval_data, mean, std, resize, eval_limit)
    )
    asked_ratios = options.fractions(ratios, "--ratios")
    asked_seeds = options.seeds(seeds)
    from graphprune import pipeline
    from graphprune.comparison import CompareOptions

    asked = CompareOptions(
        criteria=options.names(criteria),
        ratios=asked_ratios,
        seeds=asked_seeds,
        repairs=options.names(repairs),
        floor=not no_floor,
        of=of,
        scope=scope,
        min_units=min_units,
        round_to=round_to,
        only=tuple(only or ()),
        skip=tuple(skip or ()),
        calibration=calibration,
        labels=not no_labels,
        robustness=robustness,
        points=points,
        oracle=tuple(oracle or ()),
        sets=sets,
        image_seed=seed,
    )
    with console.progress_bar(quiet=quiet) as progress:
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
        )
        with pipeline.holding(common):
            prepared = pipeline.prepare_comparison(
                source, images, judges, asked, common, plots=plots, resume=resume
            )
            compared = None if dry_run else pipeline.compare(prepared, common)
    console.note(prepared.subject.notes, quiet=quiet)
    if compared is None:
        console.note(prepared.images.notes, quiet=quiet)
        _announce(prepared, as_json=as_json)
        return
    console.note(compared.found.notes, quiet=quiet)
    console.note(compared.notes, quiet=quiet)
    _show(compared, out, as_json=as_json)


def _announce(prepared: Prepared, *, as_json: bool) -> None:
    asked, conditions = prepared.questions, prepared.conditions
    labels = [each.label for each in asked.contestants]
    rankings = len(labels) * len(asked.seeds)
    networks = rankings * len(asked.ratios) * len(asked.repairs)
    if as_json:
        console.print_json(
            {
                "dry_run": True,
                "criteria": labels,
                "ratios": list(asked.ratios),
                "seeds": list(asked.seeds),
                "repairs": list(asked.repairs),
                "robustness": asked.robustness,
                "oracle": list(asked.oracle),
                "rankings": rankings,
                "networks": networks,
                "images": {"drawn": conditions.n_drawn, "judging": conditions.n_judging},
                "would_write": [str(prepared.folder.file)],
            }
        )
        return
    console.say_list("criteria", labels)
    console.say_list(f"ratios of {conditions.of}", [f"{ratio:g}" for ratio in asked.ratios])
    console.say_list("seeds", list(map(str, asked.seeds)))
    console.say_list("repairs", asked.repairs)
    console.say(
        f"would rank {rankings} times on {conditions.n_drawn} images, judge {networks} networks "
        f"on {conditions.n_judging} others, and write {prepared.folder.file}"
    )


def _show(compared: Compared, out: Path, *, as_json: bool) -> None:
    from graphprune.artifacts import as_json as plain

    found = compared.found
    if as_json:
        plots = [str(path) for path in compared.plots]
        console.print_json({"out": str(out), "plots": plots, **plain(compared.document)})
        return
    conditions = found.conditions
    console.say(
        f"judged on {conditions.n_judging} images; each seed ranks and repairs with "
        f"{conditions.n_drawn} others"
    )
    _show_cells(found)
    _show_trials(found)
    if found.robustness:
        _show_robustness(found)
    for sets in found.sets:
        _show_oracle(found, sets)
    console.say(f"wrote {out}/: compare.json, rankings/{', plots/' if compared.plots else ''}")


_TOGETHER = 4
"""Ratios that one table of 80 columns holds."""


def _show_cells(found: Comparison) -> None:
    """Print accuracy where there are labels, else agreement and divergence."""
    unpruned = found.unpruned
    if unpruned.accuracy is not None:
        console.say(f"accuracy of the unpruned network: {console.percent(unpruned.accuracy)}")
        _show_measure(found, "accuracy (%)", lambda row: row.accuracy, 100)
        return
    if unpruned.agreement is not None:
        label = "agreement with the unpruned network (%)"
        _show_measure(found, label, lambda row: row.agreement, 100)
    _show_measure(found, "divergence from the unpruned network", lambda row: row.kl, 1)


def _show_measure(
    found: Comparison, title: str, pick: Callable[[Summary], Mean | None], scale: float
) -> None:
    for method in found.repairs:
        for start in range(0, len(found.ratios), _TOGETHER):
            ratios = found.ratios[start : start + _TOGETHER]
            columns = [f"{found.conditions.of} removed", *(f"{100 * r:g} %" for r in ratios)]
            rows = list(_measure_rows(found, method, ratios, pick, scale))
            console.print_table(f"{title}, repair: {method}", columns, rows)


def _measure_rows(
    found: Comparison,
    method: str,
    ratios: Sequence[float],
    pick: Callable[[Summary], Mean | None],
    scale: float,
) -> Iterator[list[str]]:
    reached: list[list[float]] = [[] for _ in ratios]
    for label in found.criteria:
        cells = []
        for place, ratio in enumerate(ratios):
            row = found.of(label, method, ratio)
            cells.append("-" if row is None else spread(pick(row), scale))
            reached[place] += [] if row is None else [row.reached]
        yield [label, *cells]
    yield ["reached (%)", *map(_range, reached)]


def _range(fractions: Sequence[float]) -> str:
    if not fractions:
        return "-"
    low, high = 100 * min(fractions), 100 * max(fractions)
    return f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f}-{high:.1f}"


def spread(value: Mean | None, scale: float = 1, digits: int | None = None) -> str:
    """Format a mean with its standard error over seeds."""
    if value is None:
        return "-"
    shown = (1 if scale == 100 else 3) if digits is None else digits
    mean = f"{scale * value.mean:.{shown}f}"
    return mean if value.stderr is None else f"{mean} ±{scale * value.stderr:.{shown}f}"


def _show_trials(found: Comparison) -> None:
    from graphprune.comparison import mean_of

    rows = []
    for label in found.criteria:
        trials = [trial for trial in found.trials if trial.criterion == label]
        evaluations = mean_of(trial.evaluations for trial in trials)
        seconds = mean_of(trial.seconds for trial in trials)
        rows.append([label, spread(seconds, digits=1), spread(evaluations, digits=0)])
    console.print_table("ranking", ["", "seconds", "coalitions"], rows)


def _show_robustness(found: Comparison) -> None:
    from graphprune.comparison import mean_of

    rows = []
    for label in found.criteria:
        listed = [row for row in found.robustness if row.criterion == label]
        area = mean_of(row.area for row in listed)
        per_unit = mean_of(row.per_unit for row in listed)
        rows.append([label, spread(area), spread(per_unit, digits=4)])
    columns = ["lower is better", "area", "loss per unit"]
    console.print_table("layerwise robustness", columns, rows)


def _show_oracle(found: Comparison, sets: SetsOfUnits) -> None:
    from graphprune.comparison import mean_of

    rows = []
    for label in found.criteria:
        listed = [
            row
            for row in found.oracle
            if (row.criterion, row.group, row.removed) == (label, sets.group, sets.removed)
        ]
        better = mean_of(row.share_better for row in listed)
        gap, loss = mean_of(row.gap for row in listed), mean_of(row.loss for row in listed)
        rows.append([label, spread(loss), spread(better, 100), spread(gap, digits=2)])
    kind = "all" if sets.complete else "random"
    console.print_table(
        f"oracle: {sets.removed} of {sets.units} units of {sets.group}, among "
        f"{len(sets.losses)} sets ({kind}), best {sets.losses[0]:.3f}",
        ["", "loss", "better sets (%)", "gap"],
        rows,
    )
