"""Options from a file: ``graphprune.toml``, or what ``--config`` names; the command line wins.

A table a command, a key an option by its long name, and MODEL and the like by theirs::

    [prune]
    model = "torchvision:resnet18"
    ratio = 0.3
    skip = ["fc"]
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
import platform
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from graphprune.errors import OptionError, TrustError
from graphprune.files import unreachable, write_text
from graphprune_cli import console

FILE = "graphprune.toml"
"""Read where a command runs."""

_OWN = ("config", "write-config", "help")
_MAX_BYTES = 1 << 20
_GIVEN = ("COMMANDLINE", "DEFAULT_MAP")
"""Where values come from that are not an option's own default."""


def _use(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the defaults of the command that is parsed; return it if it has any."""
    found = path
    if path is None:
        found = Path(FILE)
        if unreachable(found) is None and not found.exists():
            return None
        _require_own(found)
    assert found is not None
    ctx.default_map = _defaults(found, ctx.command, ctx.info_name or "", _commands(ctx))
    return found if ctx.default_map else None


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=lambda ctx, value: console.explained(_use, ctx, value),
        help=f"Options by command, in TOML; {FILE} by default, where there is one.",
    ),
]
WriteConfig = Annotated[
    Path | None,
    typer.Option(
        "--write-config", metavar="FILE", help="Write the file that repeats this run, for --config."
    ),
]


def configurable(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--config`` and ``--write-config``."""

    @wraps(command)
    def run(
        ctx: typer.Context, config: Path | None, write_config: Path | None, **given: Any
    ) -> None:
        if config is not None:
            console.note([f"options from {config}"], quiet=bool(given.get("quiet")))
        with _as_if_typed(ctx):
            command(**given)
        if write_config is not None:
            console.explained(write_text, write_config, _written(ctx))

    own = {"ctx": typer.Context, "config": Config, "write_config": WriteConfig}
    defaults = {"ctx": inspect.Parameter.empty, "config": None, "write_config": None}
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=kind
        )
        for name, kind in own.items()
    ]
    known = inspect.signature(command, eval_str=True)
    listed = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in known.parameters.values()]
    run.__signature__ = known.replace(parameters=[*listed, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*listed, *added)}
    del run.__dict__["__wrapped__"]  # typer would look through to what it wraps
    return run


# ---- reading ------------------------------------------------------------------------------------


def _require_own(path: Path) -> None:
    """A file that nobody named may name code to run only if it is the user's own."""
    if platform.system() == "Windows" or unreachable(path) is not None:
        return
    if path.stat().st_uid != os.getuid():
        raise TrustError(
            f"{path} belongs to another user", hint=f"name it yourself: --config {path}"
        )


def _defaults(path: Path, command: Any, name: str, commands: Iterable[str]) -> dict[str, Any]:
    tables = _read(path)
    for table, content in tables.items():
        if table not in commands:
            raise _unknown(path, f"the table [{table}]", table, commands)
        if not isinstance(content, dict):
            raise OptionError(f"{path}: {table} is no table", hint=f"write [{table}] above it")
    by_key = {_key(parameter): parameter for parameter in command.params}
    allowed = [key for key in by_key if key not in (*_OWN, "trust")]
    values = {}
    for key, value in tables.get(name, {}).items():
        if key == "trust":
            raise TrustError(f"{path}: trust is given on the command line only", hint="add --trust")
        if key not in allowed:
            raise _unknown(path, f"the key {key} in [{name}]", key, allowed)
        values[by_key[key].name or key] = _checked(path, key, value, by_key[key])
    return values


def _read(path: Path) -> dict[str, Any]:
    refusal = unreachable(path)
    try:
        if refusal is None and path.exists() and path.stat().st_size > _MAX_BYTES:
            raise OptionError(f"{path} is larger than 1 MiB", hint="it is no file of options")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(
            f"cannot read {path}: {error.strerror or error}", hint="check the path after --config"
        ) from error
    except (ValueError, RecursionError) as error:
        raise OptionError(
            f"{path} is no TOML: {str(error).splitlines()[0]}",
            hint="write KEY = VALUE below [COMMAND]",
        ) from error


def _unknown(path: Path, what: str, given: str, allowed: Iterable[str]) -> OptionError:
    close = difflib.get_close_matches(given, list(allowed), n=1)
    hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(sorted(allowed))}"
    return OptionError(f"{path}: {what} is unknown", hint=hint)


def _checked(path: Path, key: str, value: object, parameter: Any) -> object:
    """Return a value as the command line would give it."""
    if parameter.multiple or parameter.nargs != 1:
        if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
            return [str(item) for item in value]
        wanted = "a list"
    elif getattr(parameter, "is_flag", False):
        if isinstance(value, bool):
            return value
        wanted = "true or false"
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    else:
        wanted = "a text or a number"
    raise OptionError(f"{path}: {key} is {value!r} and should be {wanted}", hint="correct the file")


def _key(parameter: Any) -> str:
    """Return what a parameter is called in a file: its long name, without dashes in front."""
    long = [name for name in parameter.opts if name.startswith("--")]
    return str((long or [parameter.name])[0]).removeprefix("--").lower()


def _commands(ctx: typer.Context) -> list[str]:
    group: Any = ctx.parent.command if ctx.parent is not None else None
    return [] if group is None else list(group.commands)


# ---- writing ------------------------------------------------------------------------------------


def _written(ctx: typer.Context) -> str:
    lines = [f"[{ctx.info_name}]"]
    lines += [
        f"{_key(parameter)} = {_toml(value)}"
        for parameter, value in _given(ctx, _GIVEN)
        if _key(parameter) not in (*_OWN, "trust")
    ]
    return "\n".join(lines) + "\n"


def _given(ctx: typer.Context, sources: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        value = ctx.params.get(parameter.name or "")
        if source is not None and source.name in sources and value is not None:
            yield parameter, value


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    # TOML's texts are JSON's, but for the escapes of surrogates and of DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


@contextmanager
def _as_if_typed(ctx: typer.Context) -> Iterator[None]:
    """Add what comes from a file to the command as typed, which the manifest records."""
    before = list(sys.argv)
    for parameter, value in _given(ctx, ("DEFAULT_MAP",)):
        sys.argv += _typed(parameter, value)
    try:
        yield
    finally:
        sys.argv[:] = before


def _typed(parameter: Any, value: Any) -> list[str]:
    key, several = _key(parameter), isinstance(value, list | tuple)
    items = list(value) if several else [value]
    if not any(name.startswith("--") for name in parameter.opts):
        return [str(item) for item in items]
    if isinstance(value, bool):
        return [f"--{key}"] if value else list(parameter.secondary_opts[:1])
    return [text for item in items for text in (f"--{key}", str(item))]
