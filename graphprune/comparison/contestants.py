"""Contestants: criteria with their own settings, ``shapley@game=group@budget=50``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from graphprune import criteria
from graphprune.criteria import UserCriterion
from graphprune.errors import OptionError
from graphprune.functions import is_spec, user_function
from graphprune.game.games import DEFAULT_BAND

Number = TypeVar("Number", int, float)

FLOOR = "random"
"""The criterion that knows nothing: what is no better than it is worth nothing."""

SEPARATOR = "@"

SETTINGS = (
    "game",
    "estimator",
    "value",
    "aggregate",
    "semivalue",
    "budget",
    "for-ratio",
    "for-repair",
    "exchange",
)
"""What may be set for one criterion, see :func:`graphprune.criteria.rank`."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A criterion, and how it is asked.

    Args:
        label: What tables and files call it.
        criterion: Name, or a function of the user's own.
        game: See :func:`graphprune.criteria.rank`, like those below.
        estimator: The Shapley estimator.
        value: What a coalition is worth.
        aggregate: How per-image values become scores.
        semivalue: Which coalitions count.
        budget: Coalitions per player.
        for_ratio: Largest share of multiply-accumulates that it expects to go.
        for_repair: The repair that it looks ahead to; ``auto`` for that of each cell, as ``prune``.
        exchange: Whether units trade places where no repair follows, as in ``prune``.
    """

    label: str
    criterion: str | UserCriterion
    game: str | None = None
    estimator: str = "auto"
    value: str | None = None
    aggregate: str | None = None
    semivalue: str = "shapley"
    budget: int | None = None
    for_ratio: float = DEFAULT_BAND
    for_repair: str = "auto"
    exchange: bool = True

    @property
    def source(self) -> str:
        """Hash of the files that define a criterion of the user's own, else ''."""
        given = self.criterion
        own = not isinstance(given, str) or (given not in criteria.available() and is_spec(given))
        return user_function(given).sha256 if own else ""


def contestants(given: Sequence[str | UserCriterion], *, floor: bool) -> tuple[Contestant, ...]:
    """Return who takes part.

    Args:
        given: Names as typed, with settings after ``@``, or functions of the user's own.
        floor: Let :data:`FLOOR` take part also where it is not named.

    Raises:
        OptionError: There are none, one is named twice, or a name or setting is unknown.
    """
    listed = [_contestant(each) for each in given]
    labels = [each.label for each in listed]
    if not listed:
        raise OptionError("there are no criteria to compare", hint="e.g. --criteria shapley,taylor")
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise OptionError(f"criterion {twice[0]!r} is named twice")
    if floor and FLOOR not in labels:
        listed.append(Contestant(label=FLOOR, criterion=FLOOR))
    return tuple(listed)


def _contestant(given: str | UserCriterion) -> Contestant:
    if not isinstance(given, str):
        return Contestant(label=user_function(given).name, criterion=given)
    name, *parts = given.strip().split(SEPARATOR)
    criteria.needs_data(name)  # refuses a name that is none
    settings = dict(_setting(given, part) for part in parts)
    band = _number(given, settings, "for-ratio", float)
    return Contestant(
        label=given.strip(),
        criterion=name,
        game=settings.get("game"),
        estimator=settings.get("estimator", "auto"),
        value=settings.get("value"),
        aggregate=settings.get("aggregate"),
        semivalue=settings.get("semivalue", "shapley"),
        budget=_number(given, settings, "budget", int),
        for_ratio=DEFAULT_BAND if band is None else band,
        for_repair=settings.get("for-repair", "auto"),
        exchange=_yes_or_no(given, settings.get("exchange", "yes")),
    )


def _number(given: str, settings: dict[str, str], name: str, kind: type[Number]) -> Number | None:
    """Return a setting as a number; None if it is not made."""
    if name not in settings:
        return None
    try:
        return kind(settings[name])
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise OptionError(
            f"criterion {given!r}: {name} is {what}, not {settings[name]!r}",
            hint="write settings as shapley@budget=50@for-ratio=0.3",
        ) from None


def _yes_or_no(given: str, value: str) -> bool:
    if value not in _YES_OR_NO:
        raise OptionError(
            f"criterion {given!r}: exchange is {' or '.join(_YES_OR_NO)}, not {value!r}",
            hint="write settings as shapley@budget=50@exchange=no",
        )
    return value == "yes"


_YES_OR_NO = ("yes", "no")


def _setting(given: str, part: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    if name not in SETTINGS or not equals or not value:
        raise OptionError(
            f"criterion {given!r}: {part!r} is no setting; allowed are {', '.join(SETTINGS)}",
            hint="write them as shapley@game=group@budget=50",
        )
    return name, value
