"""Holding: the run folder is one run's at a time, and what a killed run left is made good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from graphprune.artifacts import RunFolder
from graphprune.errors import ArtifactError
from graphprune.holding import held
from graphprune.pipeline.options import Common
from graphprune.staging import finish, is_unfinished


@contextmanager
def holding(common: Common) -> Iterator[None]:
    """Keep other runs out of the run folder; the leading rank holds it for all.

    Raises:
        ArtifactError: Another run holds it, or it cannot be written to.
    """
    if common.dry_run:
        yield
        return
    with ExitStack() as stack:

        def hold() -> None:
            stack.enter_context(_settled(RunFolder(common.out)))

        common.ranks.led(hold)
        yield


def settle(folder: RunFolder) -> None:
    """Finish what a killed run has left, for a command that only reads; best effort."""
    if is_unfinished(folder.path):
        with suppress(ArtifactError), _settled(folder):
            pass


@contextmanager
def _settled(folder: RunFolder) -> Iterator[None]:
    with held(folder.path):
        finish(folder.path, folder.replaced)
        try:
            yield
        finally:
            # What was staged and never committed goes.
            finish(folder.path, folder.replaced)
