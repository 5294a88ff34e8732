"""``graphprune validate``: prove that the files are one network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphprune_cli import console, options

if TYPE_CHECKING:
    from graphprune.verify import ValidationReport

Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[DIR | PRUNED.pt2 MODEL.onnx]",
        help="A run's folder (default: --out), or the two files to compare.",
        show_default=False,
    ),
]


@console.reported
def command(
    paths: Paths = None,
    data: options.Data = None,
    provider: options.Provider = "auto",
    mean: options.Mean = None,
    std: options.Std = None,
    resize: options.Resize = None,
    limit: options.Limit = None,
    out: options.Out = Path("graphprune-out"),
    seed: options.Seed = 0,
    device: options.Device = "auto",
    trust: options.Trust = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prove that original, plan, pruned network and ONNX file compute the same function."""
    images = options.data_source(data, mean, std, resize, limit)
    given = paths or [out]
    if len(given) > 2:
        raise typer.BadParameter(f"{len(given)} paths; give a folder, or a .pt2 and an .onnx file")
    from graphprune import pipeline

    with console.progress_bar(quiet=quiet) as progress:
        progress("validate", 0, 1)
        if len(given) == 2:
            report = pipeline.validate_files(given[0], given[1], images, provider)
        else:
            common = pipeline.Common(
                out=given[0], seed=seed, device=device, trust=trust, argv=tuple(sys.argv)
            )
            report = pipeline.validate_run(images, provider, common)
        progress("validate", 1, 1)
    _show(report, as_json=as_json)
    if not report.ok:
        raise typer.Exit(1)


def check_rows(report: ValidationReport) -> list[list[str]]:
    """Return the checks of a validation as rows of a table."""
    rows = []
    for check in report.checks:
        error = check.max_abs if check.max_rel is None else check.max_rel
        shown = check.detail if error is None else f"{error:.1e} (allowed {check.tolerance:.0e})"
        rows.append([check.name, "ok" if check.ok else "FAILED", shown])
    return rows


def _show(report: ValidationReport, *, as_json: bool) -> None:
    if as_json:
        from graphprune.artifacts import as_json as plain
        from graphprune.pipeline import validation_record

        console.print_json(plain(validation_record(report)))
        return
    console.print_table("validation", ["check", "", "error"], check_rows(report), numbers=False)
    for check in report.checks:
        if not check.ok:
            console.say(f"FAILED {check.name}: {check.detail}")
    console.say("the same network" if report.ok else "NOT the same network")
