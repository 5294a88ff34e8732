"""``graphprune demo``: the whole pipeline on scikit-learn's digits."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from graphprune_cli import console, options


@console.reported
def command(
    out: options.Out = Path("graphprune-demo"),
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a small network, then rank, prune, repair, export and validate it."""
    from graphprune import demo

    with console.progress_bar(quiet=quiet) as progress:
        result = demo.run(out, seed=seed, argv=tuple(sys.argv), progress=progress)
    if as_json:
        console.print_json(result.as_dict())
    else:
        console.print_table(
            "demo: digits", ["", "before", "after"], [list(row) for row in result.rows]
        )
        console.say(f"validation: {result.validation}")
        console.say(f"files: {out}/")
    if not result.ok:
        raise typer.Exit(1)
