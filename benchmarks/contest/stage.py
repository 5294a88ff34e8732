"""What is played for one group: the reference, everyone's errors, and real times."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.contest.contestants import PAPER, Contestant, chosen, contestants
from benchmarks.contest.games import VALUE, RememberedGame
from benchmarks.contest.metrics import overlap, relative_error, spearman
from benchmarks.contest.published import Readers, orders_of, play, readers_of, replay
from benchmarks.contest.reference import Reference, reference
from benchmarks.networks import Network, calibration_images, load
from graphprune.api import trace
from graphprune.data import CalibrationBatches, as_batches
from graphprune.errors import BudgetError, OptionError
from graphprune.game.games import GroupGame
from graphprune.graph import DependencyGraph
from graphprune.groups import PruningGroup

HOW = ("full", "partial")

_AGREEMENT = 1e-4
_PAPER_SHARE = 3


@dataclass(frozen=True)
class Settings:
    """What all groups are played with.

    Args:
        shared: Folder of models and data.
        cache: Folder of references and of weights trained here.
        images: Calibration images.
        budgets: Evaluations per unit, ascending.
        most: Evaluations that one run may take, beyond the smallest budget; the published algorithm
            may take three times as many, so that it is seen how many it needs.
        seeds: Runs of each contestant and budget.
        reference: Evaluations per unit of the reference.
        rivals: Whether other libraries take part.
        who: Patterns of the names of those who take part.
        threads: Of torch.
    """

    shared: Path
    cache: Path
    images: int
    budgets: tuple[int, ...]
    most: int
    seeds: int
    reference: int
    rivals: bool
    who: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class Row:
    """One contestant with one budget: means over its runs.

    Args:
        name: The contestant.
        party: See :class:`contest.contestants.Contestant`.
        budget: Evaluations per unit allowed.
        evaluations: Evaluations spent.
        seconds: Own time, and the time of its evaluations.
        error: Relative squared error of the values.
        error_stderr: Standard error of that over the runs; 0 for a single run.
        spearman: Rank correlation of the values.
        overlap: Of the lowest 30 % by values.
        score_error: Relative squared error of mean magnitudes, if it tells of images.
        score_overlap: Of the lowest 30 % by magnitude.
    """

    name: str
    party: str
    budget: int
    evaluations: float
    seconds: float
    error: float
    error_stderr: float
    spearman: float
    overlap: float
    score_error: float | None
    score_overlap: float | None


@dataclass(frozen=True)
class GroupResult:
    """All that was found for one group.

    Args:
        network: Name of the network.
        group: Name of the group.
        kind: ``interior`` (one layer reads it) or ``stream``.
        n_units: Its size.
        auto: The estimators that ``auto`` chooses, by ascending budget.
        floor: The reference's own expected error.
        reference_evaluations: Coalitions that the reference took.
        paper_seconds: Seconds of one evaluation of the published algorithm, full and partial.
        disagreement: Largest difference between its values and our game's.
        rows: By contestant and budget.
        measured: Real seconds of one whole run, by contestant, at the budget where it is good.
    """

    network: str
    group: str
    kind: str
    n_units: int
    auto: str
    floor: float
    reference_evaluations: int
    paper_seconds: dict[str, float]
    disagreement: float
    rows: tuple[Row, ...]
    measured: dict[str, float]


@dataclass(frozen=True)
class Board:
    """A network, traced, with the images that are played on."""

    network: Network
    graph: DependencyGraph
    images: Tensor
    data: CalibrationBatches

    def group(self, name: str) -> PruningGroup:
        """Return a group by name."""
        return next(group for group in self.graph.groups if group.name == name)


@cache
def board(name: str, settings: Settings) -> Board:
    """Load and trace a network."""
    torch.set_num_threads(settings.threads)
    network = load(name, settings.shared, settings.cache)
    images = calibration_images(settings.shared, settings.images)
    return Board(network, trace(network, (images[:2],)), images, as_batches((images,)))


# ---- errors -------------------------------------------------------------------------------------


def curves(network: str, group: str, settings: Settings) -> GroupResult:
    """Play one group with everyone and every budget."""
    stage = board(network, settings)
    players = stage.group(group)
    game = RememberedGame(stage.graph, players, stage.data)
    told = reference(game, settings.reference * game.n_players, _file(stage, group, settings))
    say(f"{network} {group}: reference done, its own error {told.floor:.4f}")
    readers = readers_of(players, stage.network)
    each, difference = agreement(stage, readers, game)
    rows, count = [], len(readers.units)
    for contestant in invited(count, settings):
        for budget in affordable(contestant, game.n_players, settings):
            row = measure(contestant, game, told, budget, settings.seeds)
            rows += [] if row is None else as_played(row, each)
        say(f"{network} {group}: {contestant.name} done")
    return GroupResult(
        network=network,
        group=group,
        kind="stream" if count > 1 else "interior",
        n_units=game.n_players,
        auto=", then ".join(chosen_by_budget(game, count, settings)),
        floor=told.floor,
        reference_evaluations=told.evaluations,
        paper_seconds=each,
        disagreement=difference,
        rows=tuple(rows),
        measured={},
    )


def invited(readers: int, settings: Settings) -> list[Contestant]:
    """Return who takes part where so many layers read the players."""
    everyone = contestants(readers=readers, rivals=settings.rivals)
    return [each for each in everyone if any(fnmatch(each.name, one) for one in settings.who)]


def affordable(contestant: Contestant, n_players: int, settings: Settings) -> list[int]:
    """Return the budgets that a contestant plays with."""
    most = settings.most * (_PAPER_SHARE if contestant.party == PAPER else 1)
    smallest = settings.budgets[0]
    return [each for each in settings.budgets if each == smallest or each * n_players <= most]


def chosen_by_budget(game: GroupGame, readers: int, settings: Settings) -> tuple[str, ...]:
    """Return whom ``auto`` chooses, from the smallest budget to the largest."""
    budgets = (each * game.n_players for each in settings.budgets)
    return tuple(dict.fromkeys(chosen(game, readers, budget) for budget in budgets))


def agreement(
    stage: Board, readers: Readers, game: RememberedGame
) -> tuple[dict[str, float], float]:
    """Play one order as published and in our game.

    Returns:
        Seconds of one evaluation by variant, and the largest difference, which is asserted small.
    """
    orders = orders_of(0, 1, readers.n_units)
    expected = replay(game.values, orders)
    seconds, difference = {}, 0.0
    for how in HOW:
        begun = time.perf_counter()
        found = play(stage.network, stage.images, readers, orders, how)
        seconds[how] = (time.perf_counter() - begun) / readers.n_units
        difference = max(difference, float(np.abs(found - expected).max()))
    assert difference < _AGREEMENT, f"the published algorithm plays another game: {difference}"
    return seconds, difference


def measure(
    contestant: Contestant, game: RememberedGame, told: Reference, budget: int, seeds: int
) -> Row | None:
    """Return the means over some runs; None if the budget is too small for the contestant."""
    runs = []
    for seed in range(seeds):
        game.begin()
        begun = time.perf_counter()
        try:
            found = contestant.run(game, budget * game.n_players, seed)
        except (BudgetError, OptionError) as refused:
            say(f"{contestant.name} with {budget} a unit: {refused}")
            return None
        own = time.perf_counter() - begun - game.waited
        runs.append(
            (
                found.evaluations or game.asked,
                own + game.asked * game.seconds_each,
                relative_error(found.values, told.values),
                spearman(found.values, told.values),
                overlap(found.values, told.values),
                np.nan if found.scores is None else relative_error(found.scores, told.scores),
                np.nan if found.scores is None else overlap(found.scores, told.scores),
            )
        )
    means = np.mean(runs, 0).tolist()
    spread = float(np.std(np.array(runs)[:, 2], ddof=1)) if seeds > 1 else 0.0
    return Row(
        contestant.name,
        contestant.party,
        budget,
        evaluations=means[0],
        seconds=means[1],
        error=means[2],
        error_stderr=spread / seeds**0.5,
        spearman=means[3],
        overlap=means[4],
        score_error=None if np.isnan(means[5]) else means[5],
        score_overlap=None if np.isnan(means[6]) else means[6],
    )


def as_played(row: Row, each: Mapping[str, float]) -> list[Row]:
    """Return the row; for the published algorithm one for each variant, with its own seconds.

    Args:
        row: What was found.
        each: Seconds of one evaluation of the published algorithm by variant.
    """
    if row.party != PAPER:
        return [row]
    return [
        replace(row, name=f"{PAPER}, {how}", seconds=row.evaluations * seconds)
        for how, seconds in each.items()
    ]


def _file(stage: Board, group: str, settings: Settings) -> Path:
    """Return the reference's file, whose name hashes what it depends on."""
    digest = hashlib.sha256(f"{group} {VALUE}".encode())
    for name, tensor in sorted(stage.network.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    digest.update(stage.images.numpy().tobytes())
    return settings.cache / f"reference-{digest.hexdigest()[:16]}.npz"


# ---- real times ---------------------------------------------------------------------------------


def timed(result: GroupResult, runs: Sequence[tuple[str, int]], settings: Settings) -> GroupResult:
    """Run some contestants once, alone and from the beginning.

    Args:
        result: What was found for the group.
        runs: Contestants and evaluations per unit; the published algorithm is run itself.
        settings: As before.
    """
    stage = board(result.network, settings)
    players = stage.group(result.group)
    readers = readers_of(players, stage.network)
    by_name = {each.name: each for each in invited(len(readers.units), settings)}
    measured = {}
    for name, budget in runs:
        begun = time.perf_counter()
        if name in by_name:
            game = GroupGame(stage.graph, players, stage.data, VALUE)
            by_name[name].run(game, budget * players.n_units, 0)
        else:
            orders = orders_of(0, budget, readers.n_units)
            play(stage.network, stage.images, readers, orders, name.split()[-1])
        measured[name] = time.perf_counter() - begun
        say(f"{result.network} {result.group}: {name} took {measured[name]:.2f} s")
    return replace(result, measured=measured)


def say(line: str) -> None:
    """Tell of progress."""
    print(line, file=sys.stderr, flush=True)


def as_json(result: GroupResult) -> dict[str, object]:
    """Return what :func:`json.dumps` can write."""
    return asdict(result)
