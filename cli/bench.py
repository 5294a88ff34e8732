"""``graphprune bench``: how fast ONNX files are in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphprune_cli import console, options

if TYPE_CHECKING:
    from graphprune.latency import Bench, Interval

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="A.onnx [B.onnx]",
        help="A file, and one to compare it with.",
        show_default=False,
    ),
]
Runs = Annotated[
    int | None,
    typer.Option("--runs", metavar="N", min=1, help="Runs of each file."),
]
Seconds = Annotated[
    float | None,
    typer.Option("--seconds", metavar="S", help="Time for all runs: 5, or with --runs no limit."),
]


@console.reported
def command(
    files: Files,
    threads: options.Threads = None,
    batch: options.Batch = None,
    provider: options.Provider = "auto",
    runs: Runs = None,
    seconds: Seconds = None,
    input_shape: options.InputShape = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Time ONNX files in onnxruntime, in turn, with 95 % confidence intervals."""
    if len(files) > 2:
        raise typer.BadParameter(f"{len(files)} files; give one, or two to compare")
    shapes = options.input_shapes(input_shape)
    from graphprune import latency

    with console.progress_bar(quiet=quiet) as progress:
        found = latency.bench(
            files,
            latency.BenchOptions(
                threads=threads,
                batch=batch,
                shapes=shapes,
                provider=provider,
                runs=runs,
                seconds=seconds,
            ),
            progress,
        )
    _show(found, as_json=as_json)
    if not found.as_asked:
        raise typer.Exit(1)


def summary(found: Bench) -> dict[str, Any]:
    """Return what was measured as plain JSON types."""
    from graphprune.doctor import versions

    return {
        "threads": found.threads,
        "batch": found.batch,
        "provider": found.provider,
        "files": [
            {
                "path": str(file.path),
                "bytes": file.size,
                "provider": file.provider,
                "seconds": _interval(file.seconds),
            }
            for file in found.files
        ],
        "speedup": _interval(found.speedups[0]) if found.speedups else None,
        "versions": versions(),
    }


def _interval(found: Interval) -> dict[str, float]:
    return {"median": found.median, "low": found.low, "high": found.high, "n": found.n}


def _show(found: Bench, *, as_json: bool) -> None:
    if as_json:
        console.print_json(summary(found))
        return
    rows = [
        [
            str(file.path),
            milliseconds(file.seconds),
            str(file.seconds.n),
            console.compact(file.size),
        ]
        for file in found.files
    ]
    console.print_table("latency", ["file", "ms (95 % interval)", "runs", "bytes"], rows)
    if found.speedups:
        console.say(f"the second is {times(found.speedups[0])} as fast as the first")
    used = " and ".join(sorted({file.provider for file in found.files}))
    console.say(
        f"threads: {found.threads}, batch: {found.batch}, "
        f"provider: asked for {found.provider}, used {used}"
    )


def milliseconds(seconds: Interval) -> str:
    """Write a time with its interval."""
    median, low, high = (f"{1e3 * s:.3g}" for s in (seconds.median, seconds.low, seconds.high))
    return f"{median} ({low} to {high})"


def times(speedup: Interval) -> str:
    """Write a ratio with its interval."""
    return f"{speedup.median:.2f} times ({speedup.low:.2f} to {speedup.high:.2f})"
