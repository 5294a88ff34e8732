"""What people and machines see: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer

from graphprune.errors import GraphpruneError

if TYPE_CHECKING:
    from graphprune.distributed import Ranks
    from graphprune.progress import Progress

P = ParamSpec("P")
T = TypeVar("T")

INTERRUPTED = 130
USAGE = 2


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """Turn errors into a sentence on stderr and an exit code; no traceback."""

    @wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            command(*arguments, **options)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            # The reader of our output has gone (`graphprune ... | head`); nobody is left to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (KeyboardInterrupt, Exception) as error:
            if os.environ.get("GRAPHPRUNE_DEBUG"):
                traceback.print_exc()
            _fail(*_explained(error))

    return run


def explained(call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a function outside of a command; its errors end in a sentence, too."""
    try:
        return call(*arguments, **options)
    except GraphpruneError as error:
        _fail(*_explained(error))


@contextmanager
def together(device: str) -> Iterator[Ranks]:
    """Work with the ranks that ``torchrun`` has started; one of them reports what ends them all."""
    from graphprune.distributed import ALONE, connected, terminable

    ranks = ALONE
    try:
        with terminable(), connected(device) as ranks:
            yield ranks
    except (Exception, KeyboardInterrupt) as error:
        if ranks.speaks():
            raise
        if os.environ.get("GRAPHPRUNE_DEBUG"):
            traceback.print_exc()
        raise typer.Exit(_explained(error)[1]) from None


def follows() -> bool:
    """Whether ``torchrun`` has started this process, and it is not the leading one."""
    return os.environ.get("RANK", "0") != "0" and os.environ.get("WORLD_SIZE", "1") != "1"


def let_the_first_report() -> None:
    """Wait before ending on a misspelt command, which the leading rank reports.

    ``torchrun`` ends all ranks when one has ended, and the report would be cut off.
    """
    time.sleep(5.0)


def _explained(error: BaseException) -> tuple[str, int]:
    """Return what to say of an error, and the exit code."""
    if isinstance(error, GraphpruneError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, MemoryError):
        return "out of memory\nhint: give fewer images with --limit", USAGE
    return (
        f"internal error: {type(error).__name__}: {error}\n"
        "hint: this is a bug in graphprune; GRAPHPRUNE_DEBUG=1 shows where"
    ), USAGE


def _fail(message: str, code: int) -> NoReturn:
    first, _, rest = message.partition("\n")
    typer.secho(f"error: {first}", err=True, fg=typer.colors.RED, bold=True)
    if rest:
        typer.echo(rest, err=True)
    if "--json" in sys.argv:
        typer.echo(json.dumps({"error": first, "hint": rest.removeprefix("hint: ") or None}))
    raise typer.Exit(code)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout."""
    typer.echo(json.dumps(document, indent=1))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True
) -> None:
    """Print a table on stdout; the columns after the first are numbers unless said otherwise."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if numbers and place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 80, highlight=False).print(table)


def print_listing(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of a name and figures; a name too long for its column has a line of its own."""
    widths = [max(len(row[place]) for row in [columns, *rows]) for place in range(len(columns))]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    name = min(widths[0], width - sum(widths[1:]) - 2 * len(columns))
    say(f"\n{title}\n")
    for row in [columns, *rows]:
        first = row[0]
        if len(first) > name:
            say(f"  {first}")
            first = ""
        figures = (f"{cell:>{size}}" for cell, size in zip(row[1:], widths[1:], strict=True))
        say("  ".join([f"  {first:{name}}", *figures]))


def say(text: str = "") -> None:
    """Print a line of the result on stdout."""
    typer.echo(text)


def say_list(title: str, entries: Sequence[str], indent: str = "") -> None:
    """Print entries on stdout, as many on a line as fit."""
    text = f"{indent}{title}: {', '.join(entries)}"
    say(textwrap.fill(text, 80, subsequent_indent=indent + "  ", break_on_hyphens=False))


def say_wrapped(text: str, indent: str = "") -> None:
    """Print a sentence on stdout, on as many lines as it takes."""
    say(
        textwrap.fill(
            text, 80, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False
        )
    )


def note(lines: Sequence[str], *, quiet: bool) -> None:
    """Print remarks on stderr."""
    if not quiet:
        for line in lines:
            typer.secho(f"note: {line}", err=True, fg=typer.colors.YELLOW)


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Progress]:
    """Show how far long work is, on stderr, with the time that remains."""
    if quiet:
        yield _ignore
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=20),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeElapsedColumn(),
        bars.TextColumn("left"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None, rate="")

        def step(stage: str, done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            rate = "" if speed is None else f"{speed:.3g}/s"
            bar.update(task, description=stage, completed=done, total=total, rate=rate)

        yield step


def _ignore(stage: str, done: int, total: int) -> None:
    del stage, done, total


def thousands(number: float) -> str:
    """Format a count with thin separators."""
    return f"{number:,.0f}"


def compact(number: float) -> str:
    """Format a count in at most five characters and its unit: 1,152 and 11.7 M."""
    for limit, size, unit in ((1e4, 1, ""), (1e6, 1e3, " k"), (1e9, 1e6, " M")):
        if number < limit:
            return f"{number:,.0f}" if not unit else f"{number / size:.3g}{unit}"
    return f"{number / 1e9:,.3g} G"


def place(module: str, source: str) -> str:
    """Say where something happens: the module and the line, without where it is installed."""
    return ", ".join(part for part in (module, _shortened(source)) if part)


def _shortened(source: str) -> str:
    """Shorten ``file:line`` to what tells files apart."""
    path = Path(source.rpartition(":")[0])
    line = source.rpartition(":")[2]
    if not source or path.is_relative_to(Path.cwd()):
        return source and f"{path.relative_to(Path.cwd())}:{line}"
    parts = path.parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts:
            return f"{Path(*parts[parts.index(folder) + 1 :])}:{line}"
    return f"{Path('…', *parts[-2:])}:{line}" if len(parts) > 3 else source


def percent(fraction: float) -> str:
    """Format a fraction."""
    return f"{100 * fraction:.1f} %"
