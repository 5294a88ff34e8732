"""The registry of repair methods, and the care that is the same for all of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from graphprune.data import CalibrationBatches
from graphprune.errors import DataError, OptionError, SurgeryError
from graphprune.fidelity import Fidelity, Judge, judge_of
from graphprune.game.evaluation import MEMORY
from graphprune.progress import Progress, silent
from graphprune.releasing import release, size_of
from graphprune.signature import a_weight
from graphprune.surgery import Origin, PrunedModel
from graphprune.tracing import named_tensors

FEWEST_HELD_OUT = 4
"""With fewer held-out images nothing is checked, and all images are fitted."""

HELD_OUT = 8
"""One in so many images is held out."""

NamedTensors = Iterable[tuple[str, Tensor]]
"""A network's parameters and buffers, of which not all need to be held at once."""


@dataclass(frozen=True, kw_only=True)
class LayerGain:
    """What the refit of one layer was worth.

    Args:
        layer: Name of its weight.
        before: Squared error of its output before, as a share of the output's variance, on held-out
            images (on the fitted ones where none are held out). Where a rectifier follows, of what
            it lets through.
        after: The same after the refit.
        ridge: Strength of the ridge that was chosen, zero for a bias alone; None where the layer
            stayed as it was because no refit lowered the error.
        rounds: How many more fits followed, towards targets that give way where a rectifier shuts
            (:mod:`graphprune.repairs.windows`).
        divergence: Of the network's predictions from the unpruned one's, in nats, on held-out
            images, before and after the layer was fitted to them, too
            (:mod:`graphprune.repairs.predictions`); None where it was not.
    """

    layer: str
    before: float
    after: float
    ridge: float | None
    rounds: int = 0
    divergence: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class RepairJob:
    """What a method gets.

    Args:
        model: A copy of the pruned network in evaluation mode, whose weights the method refits in
            place.
        data: Calibration images to fit, in the network's dtype and on its device.
        held_out: Images that no weight may be fitted to; None if there are too few.
        judge: Compares with the unpruned network on the held-out images; None where there are none
            or where the network makes no predictions.
        origin: What the network was cut from, if that is known.
        decided: What was chosen for every layer while images were held out, in the last run, which
            fits them all; empty before.
        seed: Seed of everything random.
        max_memory: Bytes that activations may take.
        progress: Told about every step.
    """

    model: PrunedModel
    data: CalibrationBatches
    held_out: CalibrationBatches | None = None
    judge: Judge | None = None
    origin: Origin | None = None
    decided: tuple[LayerGain, ...] = ()
    seed: int = 0
    max_memory: int = MEMORY
    progress: Progress = field(default=silent)

    @property
    def source(self) -> Origin:
        """What the network was cut from.

        Raises:
            OptionError: It is unknown.
        """
        if self.origin is None:
            raise OptionError(
                "this repair compares with the unpruned network, and the pruned one was read from "
                "a file, which does not hold it",
                hint="repair what graphprune.prune returns, before it is saved, or use "
                "method='batchnorm'",
            )
        return self.origin


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a method tells.

    Args:
        notes: What the user should know.
        layers: What each layer gained, in execution order.
        method: What was done in the end, where that is another method.
        reason: Why that method.
    """

    notes: tuple[str, ...] = ()
    layers: tuple[LayerGain, ...] = ()
    method: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class RepairResult:
    """A repaired network.

    Args:
        model: A network of its own, in evaluation mode.
        method: What repaired it; ``none`` where nothing that was tried was kept.
        changed: Parameters and buffers that differ from before, by every name of a shared one.
        notes: What the user should know.
        layers: What each layer gained, for methods that refit layer by layer.
        before: Fidelity of the network as it was cut, on held-out images; None where there are
            none, or where the unpruned network is not known.
        after: The same of the repaired network, before it was fitted to those images, too.
    """

    model: PrunedModel
    method: str
    changed: tuple[str, ...]
    notes: tuple[str, ...]
    layers: tuple[LayerGain, ...] = ()
    before: Fidelity | None = None
    after: Fidelity | None = None


Method = Callable[[RepairJob], Outcome]
"""Refits ``job.model`` in place."""


@dataclass(frozen=True, slots=True)
class _Entry:
    run: Method
    needs_data: bool
    guarded: bool
    settled: bool


_METHODS: dict[str, _Entry] = {}


def register(
    name: str, *, needs_data: bool = True, guarded: bool = False, settled: bool = False
) -> Callable[[Method], Method]:
    """Register a repair method.

    Args:
        name: What users call it.
        needs_data: Whether it looks at calibration images.
        guarded: Whether its result is kept only if it is nearer to the unpruned network, on
            held-out images, than what it was given.
        settled: Whether what is kept is fitted again to all images, with all that was chosen on
            those held out.

    Raises:
        ValueError: There is a method of that name.
    """

    def add(method: Method) -> Method:
        if name in _METHODS:
            raise ValueError(f"there are two repair methods named {name!r}")
        _METHODS[name] = _Entry(method, needs_data, guarded, settled)
        return method

    return add


def available() -> tuple[str, ...]:
    """Return the names of all methods."""
    return tuple(sorted(_METHODS))


def repair(
    pruned: PrunedModel,
    data: CalibrationBatches | None,
    method: str = "least-squares",
    *,
    seed: int = 0,
    max_memory: int = MEMORY,
    progress: Progress = silent,
) -> RepairResult:
    """Refit a pruned network's weights; shapes, names and structure stay.

    Args:
        pruned: The network; it is not changed.
        data: Calibration images; None for methods that need none.
        method: One of :func:`available`.
        seed: Seed of everything random.
        max_memory: Bytes that activations may take.
        progress: Told about every step.

    Raises:
        OptionError: There is no such method, or it needs the unpruned network and that is unknown.
        DataError: The method needs images and there are none, or they do not fit the network.
        SurgeryError: The images make a weight NaN or infinite.
    """
    return repair_in_place(
        copy.deepcopy(pruned).eval(),
        lambda: named_tensors(pruned).items(),
        data,
        method,
        seed=seed,
        max_memory=max_memory,
        progress=progress,
    )


def repair_in_place(
    model: PrunedModel,
    as_cut: Callable[[], NamedTensors],
    data: CalibrationBatches | None,
    method: str,
    *,
    seed: int = 0,
    max_memory: int = MEMORY,
    progress: Progress = silent,
) -> RepairResult:
    """Refit a pruned network's weights as :func:`repair` does, without a copy during the work.

    Args:
        model: The network, in evaluation mode; it becomes that of the result.
        as_cut: Returns the parameters and buffers that ``model`` had; asked for when it is
            refitted.
        data: As for :func:`repair`, like all that follows.
        method: One of :func:`available`.
        seed: Seed of everything random.
        max_memory: Bytes that activations may take.
        progress: Told about every step.

    Raises:
        GraphpruneError: As :func:`repair`.
    """
    entry = _entry(method)
    if not entry.needs_data:
        return RepairResult(model=model, method=method, changed=(), notes=())
    if data is None:
        raise DataError(
            f"repair {method!r} needs calibration images", hint="pass data, or method='none'"
        )
    images = _fitting(data, model)
    fitted, held_out = _parts(images, guarded=entry.guarded, seed=seed)
    job = RepairJob(
        model=model,
        data=fitted,
        held_out=held_out,
        judge=_judge_of(model.origin, held_out),
        origin=model.origin,
        seed=seed,
        max_memory=max_memory,
        progress=progress,
    )
    before = None
    if entry.guarded and job.judge is not None:
        before = job.judge.judge(model, job.source.kept)
    outcome = _run(method, job)
    changed = _changed(as_cut(), model, method)
    result = RepairResult(
        model=model,
        method=outcome.method or method,
        changed=changed,
        notes=_said(outcome.notes, outcome),
        layers=outcome.layers,
    )
    if entry.guarded:
        result = _guarded(result, before, as_cut, job)
    if held_out is None or not result.changed or not _entry(result.method).settled:
        return result
    # Now to all images, with all that was chosen on those held out. What was measured stays what
    # it was measured on: a network that had not seen them.
    release(size_of(model))  # what the first fit leaves behind
    reset(model, as_cut())
    last = replace(job, data=images, held_out=None, judge=None, decided=outcome.layers)
    settled = _run(result.method, last)
    changed = _changed(as_cut(), model, result.method)
    return replace(result, changed=changed, notes=_said(settled.notes, outcome))


def _run(method: str, job: RepairJob) -> Outcome:
    with torch.no_grad():
        return _entry(method).run(job)


def _said(notes: tuple[str, ...], outcome: Outcome) -> tuple[str, ...]:
    return notes if outcome.reason is None else (*notes, outcome.reason)


def reset(model: PrunedModel, others: NamedTensors) -> None:
    """Give a network other weights and buffers, in place, so that it is not held once more."""
    tensors = named_tensors(model)
    with torch.no_grad():
        for name, tensor in others:
            if name in tensors:
                tensors[name].copy_(tensor)


def _entry(method: str) -> _Entry:
    if method not in _METHODS:
        raise OptionError(f"repair {method!r} is none of {', '.join(available())}")
    return _METHODS[method]


def _fitting(data: CalibrationBatches, model: PrunedModel) -> CalibrationBatches:
    """Return data in the network's dtype and on its device.

    Raises:
        DataError: It has another number of inputs than the network.
    """
    given, taken = len(data.batches[0].inputs), model.signature.structure.num_leaves
    if given != taken:
        raise DataError(
            f"the data gives {given} inputs, the network takes {taken}",
            hint="give one tensor for each input",
        )
    weight = a_weight(model)
    return data if weight is None else data.to(dtype=weight.dtype, device=weight.device)


def _parts(
    data: CalibrationBatches, *, guarded: bool, seed: int
) -> tuple[CalibrationBatches, CalibrationBatches | None]:
    """Hold images out for methods whose result is checked."""
    n_held_out = data.n_images // HELD_OUT
    if not guarded or n_held_out < FEWEST_HELD_OUT:
        return data, None
    return data.split(n_held_out, seed=seed)


def _judge_of(origin: Origin | None, held_out: CalibrationBatches | None) -> Judge | None:
    return None if origin is None or held_out is None else judge_of(origin.graph, held_out)


def _why_unchecked(job: RepairJob) -> str:
    if job.held_out is None:
        return f"{job.data.n_images} images are too few to hold some out"
    return "the network returns no predictions to compare"


def _guarded(
    result: RepairResult,
    before: Fidelity | None,
    as_cut: Callable[[], NamedTensors],
    job: RepairJob,
) -> RepairResult:
    """Keep a repair only if it brings predictions on held-out images nearer to the unpruned's."""
    if job.judge is None or before is None:
        return replace(result, notes=(*result.notes, f"{_why_unchecked(job)}: nothing was checked"))
    after = job.judge.judge(result.model, job.source.kept)
    judged = replace(result, before=before, after=after)
    # Predictions of a network that was merely cut need not be finite.
    if not result.changed or (math.isfinite(after.kl) and not before.kl <= after.kl):
        return judged
    note = (
        f"{result.method} was not kept: on {after.n_images} held-out images the divergence from "
        f"the unpruned network would be {after.kl:.4g} instead of {before.kl:.4g}"
    )
    reset(result.model, as_cut())
    return replace(
        judged,
        method="none",
        changed=(),
        notes=(*result.notes, note),
        after=before,
    )


def _changed(as_cut: NamedTensors, model: PrunedModel, method: str) -> tuple[str, ...]:
    """Return what a repair has changed.

    Raises:
        SurgeryError: Something is not finite any more.
    """
    after = named_tensors(model)
    changed = tuple(
        name for name, tensor in as_cut if name in after and not torch.equal(tensor, after[name])
    )
    # NaN is both ends of what holds one; isfinite would take more memory than the tensor itself.
    ends = {name: after[name].detach().aminmax() for name in changed if after[name].numel()}
    broken = [name for name, both in ends.items() if not all(map(math.isfinite, both))]
    if broken:
        raise SurgeryError(
            f"repair {method!r} would make {broken[0]} NaN or infinite",
            hint="the network overflows on these images: check their --mean and --std, or use "
            "--repair none",
        )
    return changed
