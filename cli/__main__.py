"""``graphprune`` and ``python -m graphprune_cli``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import graphprune
from graphprune_cli import bench, compare, console, demo, doctor, inspect, prune, rank, validate
from graphprune_cli.config import configurable

app = typer.Typer(
    name="graphprune",
    help="Make trained PyTorch networks physically smaller, and prove that the ONNX file is right.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graphprune {graphprune.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    del version


for _module in (inspect, rank, prune, validate, compare, bench, demo, doctor):
    app.command(_module.__name__.rpartition(".")[2])(configurable(_module.command))


def main() -> None:
    """Run the command line."""
    if not console.follows():
        app(prog_name="graphprune")
        return
    try:
        sys.exit(app(prog_name="graphprune", standalone_mode=False))
    except typer.TyperException:
        console.let_the_first_report()
        sys.exit(console.USAGE)


if __name__ == "__main__":
    main()
