"""Functions of the user's own, named as ``package.module:name`` or ``path/file.py:name``."""

from __future__ import annotations

import hashlib
import inspect
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from graphprune.errors import GraphpruneError, OptionError
from graphprune.factories import call_factory, described, importable

NO_SOURCE = "no source file"


@dataclass(frozen=True)
class UserFunction:
    """A function of the user's own.

    Args:
        name: As it was typed, or its qualified name.
        function: Itself.
        sha256: Hash of the files that define it.
        folder: Where its neighbours can be imported from while it runs.
    """

    name: str
    function: Callable[..., Any]
    sha256: str
    folder: Path | None = None

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def ask(self, kind: str, *arguments: object, given: str) -> Any:
        """Return what it returns.

        Args:
            kind: What it is to the user: ``value`` or ``criterion``.
            arguments: What it is called with.
            given: What these are, in words.

        Raises:
            OptionError: It failed. Errors of this package pass.
        """
        try:
            with nullcontext() if self.folder is None else importable(self.folder):
                return self.function(*arguments)
        except GraphpruneError:
            raise
        except (Exception, SystemExit) as reason:
            raise OptionError(
                f"{kind} {self.name!r} failed{self._place(reason)}: {described(reason)}",
                hint=f"it was given {given}",
            ) from reason

    def _place(self, reason: BaseException) -> str:
        """Say at which of the user's lines it failed, where that is known."""
        own = _source_file(self.function)
        frames = traceback.extract_tb(reason.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == own]
        return f" at line {lines[-1]} of {own.name}" if own is not None and lines else ""


def is_spec(text: str) -> bool:
    """Whether a name has the form ``package.module:name`` or ``path/file.py:name``."""
    place, _, name = text.rpartition(":")
    importable_name = all(part.isidentifier() for part in place.split("."))
    return bool(name) and (place.endswith(".py") or importable_name)


def user_function(given: str | Callable[..., Any]) -> UserFunction:
    """Return the function that is given or named.

    A file is run once per process, however often its function is named, unless it has changed.

    Raises:
        OptionError: Nothing has that name, the user's code failed, or it cannot be called.
    """
    if isinstance(given, str):
        place = Path(given.rpartition(":")[0]).expanduser()
        content = place.read_bytes() if place.suffix == ".py" and place.is_file() else b""
        return _named(given, Path.cwd(), hashlib.sha256(content).hexdigest())
    if not callable(given):
        raise OptionError(
            f"{given!r} is a {type(given).__name__}, neither a name nor a function",
            hint="give a name, or a function of your own",
        )
    return UserFunction(_qualified_name(given), given, _hash_of([_source_file(given)]))


@lru_cache(maxsize=64)
def _named(spec: str, here: Path, content: str) -> UserFunction:
    del content  # A changed file is another function.
    found = call_factory(spec, error=OptionError, ready=_is_function)
    if not callable(found):
        raise OptionError(
            f"{spec} gave a {type(found).__name__}, which cannot be called",
            hint="name a function, or a class whose objects can be called",
        )
    place = Path(spec.rpartition(":")[0]).expanduser()
    in_file = place.suffix == ".py"
    files = [_source_file(found), here / place if in_file else None]
    folder = (here / place).resolve().parent if in_file else here
    return UserFunction(spec, found, _hash_of(files), folder)


def _is_function(found: object) -> bool:
    return callable(found) and not isinstance(found, type)


def _qualified_name(function: Callable[..., Any]) -> str:
    described_by = _behind(function)
    return f"{described_by.__module__}.{described_by.__qualname__}"


def _behind(function: Callable[..., Any]) -> Any:
    """Return the function or class whose source says what a callable does."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    return function if inspect.isroutine(function) else type(function)


def _source_file(function: Callable[..., Any]) -> Path | None:
    try:
        found = inspect.getsourcefile(_behind(function))
    except TypeError:
        return None
    return Path(found).resolve() if found is not None else None


def _hash_of(files: list[Path | None]) -> str:
    known = sorted({file.resolve() for file in files if file is not None and file.is_file()})
    if not known:
        return NO_SOURCE
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in known)).hexdigest()
