"""The Python interface: the stages of the pipeline as plain functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn
from torch.optim import Optimizer

from graphprune import (
    building,
    comparison,
    criteria,
    exchanging,
    export,
    latency_target,
    repairs,
    selection,
    verify,
    weighing,
)
from graphprune import steps as steps_module
from graphprune.candidates import Choice, choose_among
from graphprune.comparison import CompareOptions, Comparison
from graphprune.cost import LatencyModel
from graphprune.criteria import UserCriterion, ValueFunction
from graphprune.data import CalibrationBatches, as_batches
from graphprune.exchanging import Exchanged
from graphprune.game.evaluation import MEMORY, Running
from graphprune.game.games import DEFAULT_BAND
from graphprune.game.masking import MaskedNetwork, mask_network
from graphprune.graph import DependencyGraph, trace
from graphprune.inplace import prune_in_place_of
from graphprune.optimizers import hand_over, sliced_optimizer
from graphprune.progress import Progress, silent
from graphprune.ranking import Ranking
from graphprune.selection import Budget, PruningPlan, check_modelled
from graphprune.steps import Stepped
from graphprune.surgery import PrunedModel, cut
from graphprune.verify import ValidationReport
from graphprune.weighing import Weighed

__all__ = [
    "choose",
    "compare",
    "exchange",
    "export_onnx",
    "latency_model",
    "mask",
    "prune",
    "prune_optimizer",
    "rank",
    "repair",
    "select",
    "select_in_steps",
    "trace",
    "validate",
    "weigh",
]

select = selection.select
export_onnx = export.export_onnx


def rank(  # noqa: PLR0913 - one for each option of the command
    graph: DependencyGraph,
    data: object | None = None,
    criterion: str | UserCriterion = "shapley",
    seed: int = 0,
    *,
    game: str | None = None,
    estimator: str = "auto",
    value: str | ValueFunction | None = None,
    aggregate: str | None = None,
    semivalue: str = "shapley",
    budget: int | None = None,
    seconds: float | None = None,
    until_stable: float | None = None,
    for_ratio: float = DEFAULT_BAND,
    for_repair: str = "auto",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    device: str = "cpu",
    max_memory: int = MEMORY,
    precision: str = "float32",
    progress: Progress = silent,
) -> Ranking:
    """Score every unit of a network, higher = keep.

    Args:
        graph: What :func:`trace` returned.
        data: Tensors ``(x, y)`` or ``(x,)``, or an iterable of such batches (a DataLoader); None
            draws synthetic inputs where the criterion needs some.
        criterion: Name of a criterion, see :func:`graphprune.criteria.available`, or a function of
            your own from a :class:`graphprune.criteria.RankRequest` to scores (n_units,).
        seed: Equal seeds give equal rankings on one machine.
        game: ``network``, ``group`` or ``hierarchical``; None for the criterion's own choice.
        estimator: A Shapley estimator or ``auto``.
        value: ``kl``, ``cross-entropy``, ``accuracy``, or a function of your own from outputs,
            the unpruned network's outputs (both (images, positions, classes)) and labels to
            (images,), higher is better; None for the criterion's own choice.
        aggregate: ``magnitude``, ``mean`` or ``mean+2std``; None for the criterion's own choice.
        semivalue: ``shapley``, ``banzhaf``, ``leave-one-out``, ``upper-shapley`` or
            ``upper-shapley:START``: which coalitions count.
        budget: Coalitions per player (network game: per image); None for a default.
        seconds: Time that games may take; the least evidence is gathered even if it takes longer.
        until_stable: Play until another run would rank units like this: a rank correlation.
        for_ratio: Largest share of multiply-accumulates that you will remove.
        for_repair: The repair that scores look ahead to: ``none``, ``least-squares``, or ``auto``:
            none, and :meth:`Ranking.ahead_of <graphprune.ranking.Ranking.ahead_of>` makes of them
            those for a repair.
        only: Patterns of groups that may be pruned, or of what makes their units; all by default.
        skip: Patterns of groups, parameters or modules that are left alone.
        device: Where networks are run.
        max_memory: Bytes that activations may take.
        precision: ``float32``, or ``bfloat16`` for torch's automatic mixed precision.
        progress: Told about every step.

    Raises:
        OptionError: An option is not one of those allowed.
        DataError: The data does not fit the network, or labels are missing.
        BudgetError: The budget is too small.
    """
    return criteria.rank(
        graph,
        None if data is None else as_batches(data),
        criterion=criterion,
        game=game,
        estimator=estimator,
        value=value,
        aggregate=aggregate,
        semivalue=semivalue,
        budget=budget,
        seconds=seconds,
        until_stable=until_stable,
        for_ratio=for_ratio,
        for_repair=for_repair,
        only=only,
        skip=skip,
        seed=seed,
        running=Running(device=device, max_memory=max_memory, precision=precision),
        progress=progress,
    )


def latency_model(
    graph: DependencyGraph,
    *,
    threads: int | None = None,
    batch: int | None = None,
    progress: Progress = silent,
) -> LatencyModel:
    """Measure, in onnxruntime on the CPU, how long a network takes at any widths.

    The network is exported and timed as a whole, and its layers alone at a few widths each. A plan
    selected with the model reaches a *predicted* latency; :func:`bench` measures the outcome, which
    ``graphprune prune --of latency`` does and corrects.

    Args:
        graph: What :func:`trace` returned.
        threads: Threads that one operator may use; None for the cores that this process may use.
        batch: Samples in a run; None for one, or for what the network fixes.
        progress: Told about every step.

    Raises:
        TraceError: The network cannot be exported to ONNX.
    """
    options = latency_target.LatencyOptions(threads=threads, batch=batch)
    with TemporaryDirectory() as folder:
        original = Path(folder) / "original.onnx"
        return latency_target.latency_model(graph, original, options, progress)


def exchange(  # noqa: PLR0913 - one for each option of the command
    ranking: Ranking,
    data: object,
    *,
    ratio: float,
    of: str = "macs",
    scope: str | None = "global",
    min_units: int = 1,
    round_to: int = 1,
    seed: int = 0,
    device: str = "cpu",
    max_memory: int = MEMORY,
    progress: Progress = silent,
) -> Exchanged:
    """Choose the units that go, then let some trade places while what is kept is worth more.

    For networks that stay as they are cut: a repair that follows changes what units are worth.

    Args:
        ranking: What :func:`rank` returned; it stays as it is.
        data: As for :func:`rank`.
        ratio: Fraction to remove, as for :func:`select`.
        of: ``units``, ``params`` or ``macs``.
        scope: ``global``: all units compete.
        min_units: As for :func:`select`.
        round_to: As for :func:`select`.
        seed: Draws images where there are more than pay, and predictions.
        device: Where the network is run.
        max_memory: Bytes that activations may take.
        progress: Told about every pass.

    Returns:
        The plan (``.plan``) and what is kept is worth ``.before`` and ``.after``.

    Raises:
        OptionError: An option is not one of those allowed.
        BudgetError: So much cannot be removed.
    """
    return exchanging.exchange(
        ranking,
        as_batches(data),
        Budget(ratio=ratio, of=of, scope=scope, min_units=min_units, round_to=round_to),
        running=Running(device=device, max_memory=max_memory),
        seed=seed,
        progress=progress,
    )


def weigh(  # noqa: PLR0913 - one for each option of the command
    ranking: Ranking,
    data: object,
    *,
    ratio: float,
    of: str = "units",
    scope: str | None = None,
    min_units: int = 1,
    round_to: int = 1,
    latency: LatencyModel | None = None,
    repair: str = "auto",
    seed: int = 0,
    max_memory: int = MEMORY,
    progress: Progress = silent,
) -> Weighed | None:
    """Settle by repairing how far scores look ahead to a repair, as ``graphprune prune`` does.

    Plans are made by the masked game alone and by the refit game, too; they are cut and repaired on
    one half of the images, and the networks compared with the unpruned one on the other half.

    Args:
        ranking: What :func:`rank` returned by ``shapley``.
        data: As for :func:`rank`; labels are not needed.
        ratio: Fraction to remove, as for :func:`select`.
        of: What the ratio is of, as for :func:`select`.
        scope: As for :func:`select`.
        min_units: As for :func:`select`.
        round_to: As for :func:`select`.
        latency: As for :func:`select`; a ratio of the latency is one of what it predicts.
        repair: The repair that will follow, as for :func:`repair`.
        seed: Seed of everything random in it.
        max_memory: Bytes that activations may take.
        progress: Told about every step.

    Returns:
        All plans with their divergences in ``.tried`` (in nats, lower is better) and the one kept
        in ``.best``; None where there is nothing to weigh, see
        :func:`graphprune.weighing.weigh`: then ``select(ranking.ahead_of(repair), ...)`` is the
        plan.

    Raises:
        OptionError: An option is not one of those allowed.
        BudgetError: So much cannot be removed.
        DataError: The images do not fit the network.
    """
    budget = Budget(
        ratio=ratio,
        of=of,
        scope=scope,
        min_units=min_units,
        round_to=round_to,
        latency=latency,
    )
    check_modelled(budget)
    repairing = building.Repairing(
        method=repair, seed=seed, max_memory=max_memory, progress=progress
    )
    return weighing.weigh(ranking, as_batches(data), budget, repairing, progress)


def select_in_steps(  # noqa: PLR0913 - one for each option of the command
    graph: DependencyGraph,
    data: object | None = None,
    criterion: str | UserCriterion = "shapley",
    seed: int = 0,
    *,
    steps: int,
    ratio: float,
    of: str = "units",
    scope: str | None = None,
    min_units: int = 1,
    round_to: int = 1,
    latency: LatencyModel | None = None,
    repair: str = "auto",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    device: str = "cpu",
    progress: Progress = silent,
) -> Stepped:
    """Choose the units that go a part at a time, ranking what is left in between.

    Args:
        graph: What :func:`trace` returned.
        data: As for :func:`rank`.
        criterion: As for :func:`rank`.
        seed: As for :func:`rank`.
        steps: How often to rank and remove a part.
        ratio: Fraction to remove in all, as for :func:`select`.
        of: What the ratio is of, as for :func:`select`.
        scope: As for :func:`select`.
        min_units: As for :func:`select`.
        round_to: As for :func:`select`.
        latency: As for :func:`select`; a ratio of the latency is one of what it predicts.
        repair: How networks are repaired between steps: ``auto`` (the default of the command
            line) or a method's name.
        only: As for :func:`rank`.
        skip: As for :func:`rank`.
        device: Where networks are run while ranking.
        progress: Told about every step.

    Returns:
        The plan (``.plan``), the last ranking (``.ranking``) and every step (``.steps``).

    Raises:
        OptionError: An option is not one of those allowed.
        BudgetError: So much cannot be removed.
    """
    budget = Budget(
        ratio=ratio,
        of=of,
        scope=scope,
        min_units=min_units,
        round_to=round_to,
        latency=latency,
    )
    check_modelled(budget)
    return _planned(
        graph,
        None if data is None else as_batches(data),
        budget,
        steps=steps,
        ranker=_Ranker(criterion, seed, tuple(only), tuple(skip), device, progress),
        repairing=building.Repairing(method=repair, seed=seed, progress=progress),
    )


def choose(  # noqa: PLR0913 - one for each option of the command
    graph: DependencyGraph,
    data: object,
    criteria: Sequence[str] | None = None,
    seed: int = 0,
    *,
    ratio: float,
    of: str = "units",
    scope: str | None = None,
    min_units: int = 1,
    round_to: int = 1,
    latency: LatencyModel | None = None,
    steps: int = 1,
    repair: str = "auto",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    device: str = "cpu",
    progress: Progress = silent,
) -> Choice:
    """Plan with several criteria and keep the plan whose repaired network is the most faithful.

    A quarter of the images is held out to judge by; labels are not needed.

    Args:
        graph: What :func:`trace` returned.
        data: As for :func:`rank`; 32 images at least.
        criteria: Names of criteria, your own as ``path/file.py:function``; by default those of
            :data:`graphprune.candidates.CANDIDATES`.
        seed: As for :func:`rank`.
        ratio: Fraction to remove, as for :func:`select`.
        of: What the ratio is of, as for :func:`select`.
        scope: As for :func:`select`.
        min_units: As for :func:`select`.
        round_to: As for :func:`select`.
        latency: As for :func:`select`; a ratio of the latency is one of what it predicts.
        steps: As for :func:`select_in_steps`.
        repair: As for :func:`select_in_steps`.
        only: As for :func:`rank`.
        skip: As for :func:`rank`.
        device: Where networks are run while ranking.
        progress: Told about every step.

    Returns:
        The best plan (``.plan``), its ranking (``.ranking``), and all ``.candidates``, the best
        first, each with its ``.fidelity`` on the images held out.

    Raises:
        OptionError: An option is not one of those allowed.
        DataError: There are too few images.
        BudgetError: So much cannot be removed.
    """
    budget = Budget(
        ratio=ratio,
        of=of,
        scope=scope,
        min_units=min_units,
        round_to=round_to,
        latency=latency,
    )
    check_modelled(budget)

    repairing = building.Repairing(method=repair, seed=seed, progress=progress)

    def plan(criterion: str, batches: CalibrationBatches) -> Stepped:
        ranker = _Ranker(criterion, seed, tuple(only), tuple(skip), device, progress)
        return _planned(graph, batches, budget, steps=steps, ranker=ranker, repairing=repairing)

    return choose_among(
        graph,
        as_batches(data),
        plan=plan,
        build=lambda kept, batches: building.build(graph, kept, batches, repairing).model,
        names=criteria,
        seed=seed,
        progress=progress,
    )


@dataclass(frozen=True)
class _Ranker:
    """Ranks the network, and what later steps leave of it."""

    criterion: str | UserCriterion
    seed: int
    only: tuple[str, ...]
    skip: tuple[str, ...]
    device: str
    progress: Progress

    def rank(self, graph: DependencyGraph, data: CalibrationBatches | None, step: int) -> Ranking:
        """Rank; patterns say what of the unpruned network is left alone."""
        return rank(
            graph,
            data,
            self.criterion,
            self.seed,
            only=() if step else self.only,
            skip=() if step else self.skip,
            device=self.device,
            progress=self.progress,
        )


def _planned(
    graph: DependencyGraph,
    data: CalibrationBatches | None,
    budget: Budget,
    *,
    steps: int,
    ranker: _Ranker,
    repairing: building.Repairing,
) -> Stepped:
    follows = "none" if data is None else repairing.method
    found = steps_module.select_in_steps(
        graph,
        data,
        budget,
        steps=steps,
        rank=lambda network, images, step: ranker.rank(network, images, step).ahead_of(follows),
        build=lambda kept: building.build(graph, kept, data, repairing).model,
        progress=ranker.progress,
    )
    found = steps_module.weigh_if(found, data, budget, repairing, ranker.progress)
    trading = steps_module.Trading(
        repair=repairing.method,
        running=Running(device=ranker.device),
        seed=ranker.seed,
        progress=ranker.progress,
    )
    return steps_module.exchange_if(trading, found, data, budget)


def prune(
    graph: DependencyGraph,
    plan: PruningPlan,
    *,
    in_place_of: nn.Module | None = None,
    optimizer: Optimizer | None = None,
) -> nn.Module:
    """Return a physically smaller network, callable like the model.

    Args:
        graph: What :func:`trace` returned.
        plan: What :func:`select` returned.
        in_place_of: The original model: return a copy of it whose layers torch-pruning has
            sliced, instead of the graph. The copy is verified against the graph.
        optimizer: The optimizer that trains the model. From now on it trains the pruned network,
            with its momentum or moments sliced like the parameters; schedulers that hold it go on.
            :func:`prune_optimizer` leaves it alone and returns another.

    Raises:
        OptionError: The plan was made for another network, or the optimizer trains another one or
            keeps a state that cannot be sliced.
        SurgeryError: The original's forward does not allow slicing in place.
    """
    kept = plan.kept(graph)
    pruned = (
        cut(graph, kept) if in_place_of is None else prune_in_place_of(in_place_of, graph, kept)
    )
    if optimizer is not None:
        hand_over(optimizer, graph, kept, pruned)
    return pruned


def prune_optimizer(
    optimizer: Optimizer, graph: DependencyGraph, plan: PruningPlan, pruned: nn.Module
) -> Optimizer:
    """Return an optimizer of the pruned network that goes on where the model's has come to.

    Momentum (SGD), moments (Adam, AdamW) and all other state that lies entry by entry beside the
    parameters is sliced like them; learning rates and other settings are kept, group by group.

    Args:
        optimizer: Trains the model that was traced; it is not changed. Its hooks and learning-rate
            schedulers stay its own.
        graph: What :func:`trace` returned for that very model, which must still be alive.
        plan: What ``pruned`` was pruned by.
        pruned: What :func:`prune` returned, or :func:`repair` after it.

    Raises:
        OptionError: The plan was made for another network, or the optimizer trains another one or
            keeps a state that cannot be sliced.
        SurgeryError: ``pruned`` is not what the plan leaves.
    """
    return sliced_optimizer(optimizer, graph, plan.kept(graph), pruned)


def mask(graph: DependencyGraph, plan: PruningPlan) -> MaskedNetwork:
    """Return the full-size network in which the units that a plan removes are masked.

    Raises:
        OptionError: The plan was made for another network.
    """
    return mask_network(graph, plan.kept(graph))


def repair(
    pruned: PrunedModel,
    data: object,
    method: str = "least-squares",
    *,
    seed: int = 0,
    max_memory: int = MEMORY,
    progress: Progress = silent,
) -> PrunedModel:
    """Return a network of the same shape with weights refitted to calibration data, label-free.

    See :func:`graphprune.repairs.repair` for what a method did and what each layer gained.

    Args:
        pruned: What :func:`prune` returned; it is not changed.
        data: As for :func:`rank`.
        method: ``least-squares``, ``auto``, ``bias``, ``batchnorm``, ``distill`` or ``none``, see
            :func:`graphprune.repairs.available`.
        seed: Seed of everything random.
        max_memory: Bytes that activations may take.
        progress: Told about every step.

    Raises:
        OptionError: There is no such method, or it compares with the unpruned network and
            ``pruned`` was read from a file.
        DataError: The data does not fit the network.
        SurgeryError: The data makes a weight NaN or infinite.
    """
    batches = as_batches(data)
    return repairs.repair(
        pruned, batches, method=method, seed=seed, max_memory=max_memory, progress=progress
    ).model


def validate(
    pruned: nn.Module, path: str | Path, *, data: object | None = None, provider: str = "auto"
) -> ValidationReport:
    """Prove that an ONNX file computes what a pruned network computes.

    Args:
        pruned: The network.
        path: The ONNX file.
        data: Calibration data to compare on as well.
        provider: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    batches = None if data is None else as_batches(data)
    return verify.validate(pruned, Path(path), data=batches, provider=provider)


def compare(  # noqa: PLR0913 - one for each option of the command
    graph: DependencyGraph,
    data: object,
    criteria: Sequence[str | UserCriterion] = comparison.CRITERIA,
    ratios: Sequence[float] = comparison.RATIOS,
    seeds: int | Sequence[int] = comparison.SEEDS,
    *,
    eval_data: object | None = None,
    repairs: Sequence[str] = comparison.REPAIRS,
    floor: bool = True,
    of: str = "macs",
    scope: str = "auto",
    min_units: int = 1,
    round_to: int = 1,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    calibration: int | None = None,
    labels: bool = True,
    robustness: bool = False,
    points: int = comparison.POINTS,
    oracle: str | Sequence[str] = (),
    sets: int = comparison.SETS,
    seed: int = 0,
    device: str = "cpu",
    max_memory: int = MEMORY,
    precision: str = "float32",
    progress: Progress = silent,
) -> Comparison:
    """Compare criteria: rank, prune and repair with each, and judge on images that did neither.

    Args:
        graph: What :func:`trace` returned.
        data: As for :func:`rank`. Without ``eval_data`` a third of it judges.
        criteria: Names, with settings of their own as ``shapley@game=group@budget=50``, or
            functions of your own.
        ratios: Fractions to remove.
        seeds: A list, or how many counted from 0. Every seed draws images of its own, and seeds
            what is random in a criterion.
        eval_data: Images that judge; those among them that are also in ``data`` do not rank.
        repairs: Methods tried on every pruned network; ``auto`` is the one that is used by default.
        floor: Let ``random`` take part also where it is not named.
        of: The cost that ratios are a fraction of.
        scope: ``auto``, ``global`` or ``group``, see :func:`select`.
        min_units: Units that every group keeps.
        round_to: Keep multiples of so many units.
        only: Patterns of groups that may be pruned.
        skip: Patterns of groups that are left alone.
        calibration: Images that every seed draws; three quarters of those that may rank by default.
        labels: Let criteria see labels; the judge does in any case.
        robustness: Also draw layerwise robustness curves.
        points: Points of a curve at most.
        oracle: Patterns of groups whose removed sets are placed among all sets of their size;
            ``auto`` for the two smallest.
        sets: Sets of one size that are measured at most.
        seed: Parts the images.
        device: Where networks are run.
        max_memory: Bytes that activations may take.
        precision: ``float32``, or ``bfloat16`` while ranking.
        progress: Told about every step.

    Raises:
        OptionError: An option is not one of those allowed, or no criterion can rank the network.
        DataError: The data does not fit the network, or there are too few images.
    """
    options = CompareOptions(
        criteria=tuple(criteria),
        ratios=tuple(ratios),
        seeds=seeds if isinstance(seeds, int) else tuple(seeds),
        repairs=tuple(repairs),
        floor=floor,
        of=of,
        scope=scope,
        min_units=min_units,
        round_to=round_to,
        only=tuple(only),
        skip=tuple(skip),
        calibration=calibration,
        labels=labels,
        robustness=robustness,
        points=points,
        oracle=(oracle,) if isinstance(oracle, str) else tuple(oracle),
        sets=sets,
        image_seed=seed,
    )
    return comparison.compare(
        graph,
        as_batches(data),
        None if eval_data is None else as_batches(eval_data),
        options,
        running=Running(device=device, max_memory=max_memory, precision=precision),
        progress=progress,
    )
