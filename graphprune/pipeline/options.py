"""What commands are told: one record for all of them, one for each of the long stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from graphprune.distributed import ALONE, Ranks
from graphprune.errors import OptionError
from graphprune.game.evaluation import MEMORY
from graphprune.latency_target import LatencyOptions
from graphprune.progress import Progress, silent
from graphprune.verify import Settings

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command is told.

    Args:
        out: Folder for the files of the run.
        seed: Seed of everything random.
        device: ``auto``, ``cpu`` or ``cuda``.
        max_memory: Bytes that activations may take while ranking.
        precision: What networks are run in while ranking, ``float32`` or ``bfloat16``.
        trust: Reading files may run the code they hold.
        argv: The command as typed, for the manifest.
        dry_run: Write nothing.
        unpin_outputs: Patterns of the outputs that may shrink, see :func:`graphprune.trace`.
        progress: Told about every step.
        ranks: The processes that rank together.
    """

    out: Path = Path("graphprune-out")
    seed: int = 0
    device: str = "auto"
    max_memory: int = MEMORY
    precision: str = "float32"
    trust: bool = False
    argv: tuple[str, ...] = ()
    dry_run: bool = False
    unpin_outputs: tuple[str, ...] = ()
    progress: Progress = field(default=silent)
    ranks: Ranks = ALONE


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """How to rank, see :func:`graphprune.criteria.rank`; ``resume`` takes up an interrupted run.

    ``for_ratio`` is None for the default band.
    """

    criterion: str = "shapley"
    game: str | None = None
    estimator: str = "auto"
    value: str | None = None
    aggregate: str | None = None
    semivalue: str = "shapley"
    budget: int | None = None
    seconds: float | None = None
    until_stable: float | None = None
    for_ratio: float | None = None
    for_repair: str = "auto"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """How to prune, see :func:`graphprune.selection.select`.

    Args:
        ratio: Fraction to remove.
        of: ``units``, ``params``, ``macs`` or ``latency``.
        scope: ``group``, ``global`` or ``auto``.
        min_units: Units that every group keeps at least.
        round_to: Keep multiples of this many units.
        repair: ``auto`` (BatchNorm statistics where there is data) or a method's name.
        ranking: A ranking file other than the run folder's.
        latency: How latency is measured, where the ratio is one of it.
        steps: How often to rank and remove a part.
        plots: What plots are written as: ``svg``, ``png`` or ``none``.
        exchange: Whether units trade places, see :mod:`graphprune.exchanging`; None does where it
            fits.
    """

    ratio: float
    of: str = "units"
    scope: str = "auto"
    min_units: int = 1
    round_to: int = 1
    repair: str = "auto"
    ranking: Path | None = None
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    steps: int = 1
    plots: str = "none"
    exchange: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """How to validate.

    Args:
        provider: onnxruntime's: ``auto``, ``cpu`` or ``cuda``.
        settings: Batches, seeds and tolerances.
    """

    provider: str = "auto"
    settings: Settings = field(default_factory=Settings)


def chosen_device(name: str) -> str:
    """Return the device to run on.

    Raises:
        OptionError: The name is unknown, or there is no such device here.
    """
    if name not in DEVICES:
        raise OptionError(f"device {name!r} is none of {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise OptionError(
            "device 'cuda' was asked for and torch finds none here",
            hint="use --device cpu; `graphprune doctor` lists devices",
        )
    return "cuda" if available and name != "cpu" else "cpu"
