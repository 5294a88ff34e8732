"""Factories: import what ``package.module:name`` or ``path/file.py:name`` points at, and call it.

Naming a factory is asking for its code to run, so nothing here needs ``--trust``.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from graphprune.errors import InputError


def call_factory(
    spec: str, *, error: type[InputError], ready: Callable[[object], bool] = lambda _: False
) -> Any:
    """Return what the factory named by ``spec`` returns.

    Args:
        spec: ``package.module:name`` or ``path/file.py:name``.
        error: The class to raise when it cannot be done.
        ready: Says whether the named object is wanted itself, so that it is not called.

    Raises:
        InputError: As ``error``: nothing has that name, or the user's code failed.
    """
    place, _, name = spec.rpartition(":")
    folder = Path(place).parent.resolve() if place.endswith(".py") else Path.cwd()
    with importable(folder):
        module = _module_at(place, spec, error)
        factory = _attribute(module, name, spec, error)
        if ready(factory):
            return factory
        if not callable(factory):
            raise error(
                f"{spec} is a {type(factory).__name__}, which cannot be called",
                hint="name a function or class that takes no arguments",
            )
        return _call(factory, spec, error)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let a folder's modules be imported while the block runs."""
    # The factory may import its neighbours while it runs, so the folder stays for the whole call.
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _module_at(place: str, spec: str, error: type[InputError]) -> ModuleType:
    try:
        return _file_module(place, error) if place.endswith(".py") else _package_module(place)
    except InputError:
        raise
    except (Exception, SystemExit) as reason:
        raise error(
            f"importing {place} for {spec} failed: {described(reason)}",
            hint=f"check that it imports on its own: python -c 'import {Path(place).stem}'",
        ) from reason


def _package_module(name: str) -> ModuleType:
    importlib.invalidate_caches()
    return importlib.import_module(name)


def _file_module(place: str, error: type[InputError]) -> ModuleType:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise error(f"there is no file {place}", hint="check the path before the colon")
    # A name of its own: two files called model.py must not replace each other, nor a package.
    name = f"_graphprune_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise error(f"{place} is not a Python file", hint="name a .py file before the colon")
    module = importlib.util.module_from_spec(found)
    # Registered before it runs, because dataclasses and pickle look their module up by name.
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _attribute(module: ModuleType, name: str, spec: str, error: type[InputError]) -> Any:
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError as reason:
        public = [key for key in vars(module) if not key.startswith("_")]
        close = difflib.get_close_matches(name, public, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "check the name after the colon"
        raise error(f"{spec}: the module has no {name}", hint=hint) from reason


def _call(factory: Callable[[], Any], spec: str, error: type[InputError]) -> Any:
    try:
        return factory()
    except (Exception, SystemExit) as reason:
        raise error(
            f"{spec} failed when called without arguments: {described(reason)}",
            hint="a factory takes no arguments and returns the finished object",
        ) from reason


def described(reason: BaseException) -> str:
    """Return the type of an error of the user's code, and what it says."""
    text = str(reason).strip()
    return f"{type(reason).__name__}: {text}" if text else type(reason).__name__
