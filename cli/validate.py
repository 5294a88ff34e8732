"""``graphprune validate``: prove that the files are one network."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphprune_cli import console, options

if TYPE_CHECKING:
    from graphprune.verify import Divergence, Settings, ValidationReport

Subjects = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[DIR | MODEL FILE.onnx]",
        help="A run's folder (default: --out); or PRUNED.pt2 or any other network, and an ONNX "
        "file to compare it with.",
        show_default=False,
    ),
]
Batches = Annotated[
    str, typer.Option("--batches", metavar="N,N,...", help="Batch sizes to compare on.")
]
Seeds = Annotated[
    str,
    typer.Option(
        "--seeds", metavar="N|S,S,...", help="How many seeds, counted from --seed, or which."
    ),
]
Rtol = Annotated[
    list[str] | None,
    typer.Option(
        "--rtol",
        metavar="[NAME=]R",
        help="Largest relative error; of one output or dtype with its name before it; repeatable.",
    ),
]
Atol = Annotated[
    list[str] | None,
    typer.Option(
        "--atol", metavar="[NAME=]A", help="Absolute error that passes besides, likewise."
    ),
]


@console.reported
def command(
    subjects: Subjects = None,
    data: options.Data = None,
    provider: options.Provider = "auto",
    batches: Batches = "1,2,5",
    seeds: Seeds = "2",
    rtol: Rtol = None,
    atol: Atol = None,
    weights: options.Weights = None,
    input_shape: options.InputShape = None,
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
    """Prove that original, plan, pruned network and ONNX file compute the same function.

    Or, given two files, that a network and an ONNX file do.
    """
    images = options.data_source(data, mean, std, resize, limit)
    given = subjects or [str(out)]
    if len(given) > 2:
        raise typer.BadParameter(f"{len(given)} paths; give a folder, or MODEL and an .onnx file")
    if len(given) == 1 and (weights or input_shape):
        raise typer.BadParameter("--weights and --input-shape are for MODEL; a run knows its own")
    settings = _settings(batches, seeds, seed, rtol, atol)
    source = options.model_source(given[0], weights, input_shape)
    from graphprune import pipeline

    wanted = pipeline.ValidateOptions(provider=provider, settings=settings)
    common = pipeline.Common(
        out=out if len(given) == 2 else Path(given[0]),
        seed=seed,
        device=device,
        trust=trust,
        argv=tuple(sys.argv),
    )
    with console.progress_bar(quiet=quiet) as progress:
        progress("validate", 0, 1)
        if len(given) == 2:
            report = pipeline.validate_files(source, Path(given[1]), images, wanted, common)
        else:
            report = pipeline.validate_run(images, wanted, common)
            pipeline.drop_divergence(report, common)
        witnesses = pipeline.save_divergence(report, common)
        progress("validate", 1, 1)
    _show(report, witnesses, as_json=as_json)
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


def _settings(
    batches: str, seeds: str, seed: int, rtol: list[str] | None, atol: list[str] | None
) -> Settings:
    wanted = options.seeds(seeds)
    sizes = options.sizes(batches, "--batches", "1,2,5")
    relative, absolute = _tolerances(rtol, "--rtol"), _tolerances(atol, "--atol")
    from graphprune.verify import Settings, Tolerance

    return Settings(
        batches=sizes,
        seeds=tuple(range(seed, seed + wanted)) if isinstance(wanted, int) else wanted,
        rtol=relative.pop("", None),
        atol=absolute.pop("", 0.0),
        tolerances=(
            *(Tolerance(of=name, rtol=value) for name, value in relative.items()),
            *(Tolerance(of=name, atol=value) for name, value in absolute.items()),
        ),
    )


def _tolerances(given: list[str] | None, option: str) -> dict[str, float]:
    """Return tolerances by the name before ``=``, the general one by none."""
    found = {}
    for text in given or ():
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = -1.0
        if not 0 <= found[name] < math.inf:
            raise typer.BadParameter(
                f"{option} {text!r} is no tolerance, e.g. 1e-3, logits=1e-3 or float16=1e-2"
            )
    return found


def say_divergence(found: Divergence, witnesses: Sequence[Path]) -> None:
    """Say where a file parts from its network."""
    error = "" if found.error is None else f", by {found.error:.1e} ({found.case})"
    console.say_wrapped(f"first difference: node {found.node} ({found.op}){error}")
    for title, names in (
        ("value", (found.value,)),
        ("module", (console.place(found.module, found.source),)),
        ("weights", found.weights),
        ("group", found.groups),
        ("shown by", tuple(map(str, witnesses))),
    ):
        if any(names):
            console.say_list(title, names, "  ")


def _show(report: ValidationReport, witnesses: Sequence[Path], *, as_json: bool) -> None:
    if as_json:
        from graphprune.artifacts import as_json as plain
        from graphprune.pipeline import validation_record

        console.print_json(plain(validation_record(report, witnesses)))
        return
    console.print_table("validation", ["check", "", "error"], check_rows(report), numbers=False)
    for check in report.checks:
        if not check.ok:
            console.say_wrapped(f"FAILED {check.name}: {check.detail}")
    if report.divergence is not None:
        say_divergence(report.divergence, witnesses)
    console.say("the same network" if report.ok else "NOT the same network")
