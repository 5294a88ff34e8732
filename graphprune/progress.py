"""Progress: how long work tells its caller where it stands."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called after every step of long work; raising from it stops the work."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report ``done`` of ``total`` steps of ``stage``."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
    del stage, done, total
