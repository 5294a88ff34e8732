"""``graphprune rank``: score every unit."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphprune_cli import console, options

if TYPE_CHECKING:
    from graphprune.pipeline import RankOptions, Subject
    from graphprune.ranking import GroupScores, Ranking


@console.reported
def command(
    model: options.Model,
    data: options.Data = None,
    criterion: options.Criterion = "shapley",
    game: options.Game = None,
    estimator: options.Estimator = "auto",
    value: options.Value = None,
    aggregate: options.Aggregate = None,
    semivalue: options.Semivalue = "shapley",
    budget: options.Budget = None,
    seconds: options.Seconds = None,
    until_stable: options.UntilStable = None,
    for_ratio: options.ForRatio = None,
    for_repair: options.ForRepair = "auto",
    resume: options.Resume = False,
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
    """Score every unit of a network; writes DIR/ranking.json."""
    source = options.model_source(model, weights, input_shape)
    images = options.data_source(data, mean, std, resize, limit)
    from graphprune import pipeline

    settings = pipeline.RankOptions(
        criterion=criterion,
        game=game,
        estimator=estimator,
        value=value,
        aggregate=aggregate,
        semivalue=semivalue,
        budget=budget,
        seconds=seconds,
        until_stable=until_stable,
        for_ratio=for_ratio,
        for_repair=for_repair,
        only=tuple(only or ()),
        skip=tuple(skip or ()),
        resume=resume,
    )
    with (
        console.progress_bar(quiet=quiet or console.follows()) as progress,
        console.together(device) as ranks,
    ):
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
        with pipeline.holding(common):
            subject = pipeline.prepare(source, images, common)
            left_alone = pipeline.left_alone(subject, settings)
            if not dry_run:
                ranked = pipeline.rank_subject(subject, settings, common)
                ranked.keep(common)
    if not ranks.leads:
        return
    console.note(subject.notes, quiet=quiet)
    console.note(data_notes(subject, settings), quiet=quiet)
    if dry_run:
        _announce(subject, settings, left_alone, common.out, as_json=as_json)
    else:
        console.note(ranked.ranking.notes, quiet=quiet)
        _show(ranked.ranking, out, as_json=as_json)


def data_notes(subject: Subject, settings: RankOptions) -> list[str]:
    """Say so where a criterion is asked to look at images and there are none."""
    from graphprune import criteria
    from graphprune.criteria.images import SYNTHETIC_IMAGES

    if subject.data is not None or not criteria.needs_data(settings.criterion):
        return []
    return [
        f"no --data: {settings.criterion} plays the label-free game on "
        f"{SYNTHETIC_IMAGES} synthetic inputs, which may rank no better than chance; "
        "real images need no labels"
    ]


def _announce(
    subject: Subject,
    settings: RankOptions,
    left_alone: tuple[str, ...],
    out: Path,
    *,
    as_json: bool,
) -> None:
    graph = subject.graph
    if as_json:
        console.print_json(
            {
                "dry_run": True,
                "criterion": settings.criterion,
                "groups": len(graph.groups),
                "units": graph.n_units,
                "protected": list(left_alone),
                "would_write": [str(out / "ranking.json")],
            }
        )
        return
    if left_alone:
        console.say_list("left alone", left_alone)
    console.say(
        f"would rank {console.thousands(graph.n_units)} units in {len(graph.groups)} groups by "
        f"{settings.criterion} and write {out / 'ranking.json'}"
    )


def _show(ranking: Ranking, out: Path, *, as_json: bool) -> None:
    import numpy as np

    path = out / "ranking.json"
    if as_json:
        console.print_json(summary(ranking, path))
        return
    rows = [
        [
            group.name,
            str(group.units),
            *(f"{q:.3g}" for q in np.quantile(group.scores, [0, 0.5, 1])),
            f"{np.median(group.stderr):.2g}",
            *_stability(group),
        ]
        for group in ranking.groups
    ]
    title = f"{ranking.criterion}: higher = keep"
    columns = ["group", "units", "lowest", "median", "highest", "stderr"]
    if any(map(_stability, ranking.groups)):
        columns.append("stability")
    console.print_listing(title, columns, rows)
    console.say()
    console.say(
        f"{console.thousands(len(ranking.scores))} units, "
        f"{ranking.evaluations} coalitions on {ranking.n_images} images"
    )
    console.say(f"wrote {path}")
    console.say(
        "next: graphprune prune --ratio 0.3"
        + ("" if str(out) == "graphprune-out" else f" --out {out}")
    )


def _stability(group: GroupScores) -> list[str]:
    if group.effort is None or group.effort.stability is None:
        return []
    return [f"{group.effort.stability:.2f}"]


def summary(ranking: Ranking, path: Path) -> dict[str, Any]:
    """Return a ranking as plain JSON types."""
    return {
        "criterion": ranking.criterion,
        "game": ranking.game,
        "estimator": ranking.estimator,
        "value": ranking.value,
        "aggregate": ranking.aggregate,
        "semivalue": ranking.semivalue,
        "for_ratio": ranking.for_ratio,
        "for_repair": ranking.for_repair,
        "evaluations": ranking.evaluations,
        "n_images": ranking.n_images,
        "seed": ranking.seed,
        "ranking": str(path),
        "notes": list(ranking.notes),
        "groups": [
            {
                "name": group.name,
                "units": group.units,
                "scores": group.scores.tolist(),
                "stderr": group.stderr.tolist(),
                "effort": None if group.effort is None else asdict(group.effort),
            }
            for group in ranking.groups
        ],
    }
