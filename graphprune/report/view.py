"""From the files of a run to what the page shows: numbers as text, in the order of the page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from graphprune.artifacts import (
    CheckRecord,
    ChoiceRecord,
    DataRecord,
    DivergenceRecord,
    ExchangeRecord,
    FaithfulnessRecord,
    HeldOutRecord,
    LatencyRecord,
    LayerGainRecord,
    ManifestFile,
    ModelRecord,
    PlanFile,
    PlannedGroupRecord,
    RankedGroup,
    RankingFile,
    StepRecord,
    WeighingRecord,
)
from graphprune.errors import ArtifactError
from graphprune.report.histogram import Histogram, histogram

_SCOPES = {"group": "the same fraction of every group", "global": "one ranking of all units"}
_NAMES = {
    "units": "units",
    "params": "parameters",
    "macs": "multiply-accumulates",
    "latency": "latency",
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number before and after.

    Args:
        name: What is counted.
        before: As short text.
        after: As short text.
        change: The difference, signed.
        exact: Both numbers in full.
        left: Percent of it that is left, for the bar; None where that is no fraction.
    """

    name: str
    before: str
    after: str
    change: str
    exact: str
    left: float | None


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One group.

    Args:
        name: Its name.
        before: Units it had.
        after: Units it has.
        change: The share that went.
        track: Length of its bar in percent of the longest.
        left: Percent of the bar that is filled.
        protected: It was left alone on request.
        scores: Its scores, drawn.
    """

    name: str
    before: int
    after: int
    change: str
    track: float
    left: float
    protected: bool
    scores: Histogram


@dataclass(frozen=True, kw_only=True)
class CheckRow:
    """One check of the validation."""

    name: str
    ok: bool
    error: str
    allowed: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """How long one file takes, as text."""

    file: str
    median: str
    interval: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the run.

    Args:
        name: Its name.
        seconds: How long it took.
        share: Percent of the longest stage.
    """

    name: str
    seconds: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Refit:
    """What the refit of one layer was worth, as text."""

    layer: str
    before: str
    after: str
    ridge: str


@dataclass(frozen=True, kw_only=True)
class RunView:
    """The whole page, from top to bottom."""

    title: str
    ok: bool
    verdict: str
    asked: str
    figures: tuple[Figure, ...]
    accuracy_of: str
    notes: tuple[str, ...]
    groups: tuple[GroupRow, ...]
    checks: tuple[CheckRow, ...]
    divergence: tuple[tuple[str, str], ...]
    latency: tuple[LatencyRow, ...]
    latency_of: str
    command: str
    refits: tuple[Refit, ...]
    stages: tuple[Stage, ...]
    total_seconds: str
    model: tuple[tuple[str, str], ...]
    data: tuple[tuple[str, str], ...]
    ranking: tuple[tuple[str, str], ...]
    pruning: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    hashes: tuple[tuple[str, str], ...]


def view_of(manifest: ManifestFile, plan: PlanFile, ranking: RankingFile) -> RunView:
    """Describe a run.

    Raises:
        ArtifactError: ``ranking`` scores other groups than ``plan``.
    """
    return RunView(
        title=_model_name(manifest.model),
        ok=manifest.validation.ok,
        verdict=_verdict(manifest.validation.checks),
        asked=f"Asked to remove {_percent(plan.asked)} of the {_NAMES.get(plan.of, plan.of)}, "
        f"{_SCOPES.get(plan.scope, plan.scope)}; reached {_percent(plan.reached)}.",
        figures=_figures(manifest, plan),
        accuracy_of=_accuracy_of(manifest),
        notes=(*manifest.notes, *manifest.repair.notes),
        groups=_groups(plan, ranking),
        checks=tuple(_check(check) for check in manifest.validation.checks),
        divergence=_divergence_rows(manifest.validation.divergence),
        latency=_latency_rows(manifest.latency),
        latency_of="" if manifest.latency is None else _latency_of(manifest.latency),
        command=_command(manifest.argv),
        refits=tuple(_refit(layer) for layer in manifest.repair.layers),
        stages=_stages(manifest.timings),
        total_seconds=f"{sum(manifest.timings.values()):.1f}",
        model=_model_rows(manifest.model),
        data=_data_rows(manifest.data),
        ranking=_ranking_rows(ranking),
        pruning=_pruning_rows(manifest, plan),
        versions=tuple(manifest.versions.items()),
        hashes=tuple(manifest.hashes.items()),
    )


# ---- at a glance --------------------------------------------------------------------------------


def _model_name(model: ModelRecord) -> str:
    return PurePath(model.spec).name or model.spec


def _verdict(checks: Sequence[CheckRecord]) -> str:
    failed = [check.name for check in checks if not check.ok]
    if failed:
        return f"Validation failed: {', '.join(failed)}"
    return f"Validation passed: {len(checks)} checks"


def _figures(manifest: ManifestFile, plan: PlanFile) -> tuple[Figure, ...]:
    before, after = plan.cost.before, plan.cost.after
    figures = [
        _cost_figure("MACs", before.macs, after.macs),
        _cost_figure("parameters", before.params, after.params),
        _cost_figure("units", before.units, after.units),
    ]
    if manifest.latency is not None:
        figures.append(_latency_figure(manifest.latency))
    if manifest.accuracy is not None:
        then, now = manifest.accuracy.before, manifest.accuracy.after
        figures.append(
            Figure(
                name="accuracy",
                before=_percent(then),
                after=_percent(now),
                change=f"{_signed(100 * (now - then))} points",
                exact=f"on {manifest.accuracy.n_images:,} calibration images",
                left=None,
            )
        )
    if manifest.fidelity is not None:
        figures.append(_fidelity_figure(manifest.fidelity))
    return tuple(figures)


def _latency_figure(found: LatencyRecord) -> Figure:
    before, after = found.before.median, found.after.median
    remains = 1 / found.speedup.median
    return Figure(
        name="latency",
        before=f"{1e3 * before:.3g} ms",
        after=f"{1e3 * after:.3g} ms",
        change=f"{_signed(100 * (remains - 1))} %",
        exact=_latency_of(found),
        left=min(round(100 * remains, 2), 100.0),
    )


def _latency_of(found: LatencyRecord) -> str:
    gain = found.speedup
    return (
        f"{gain.median:.2f} times as fast ({gain.low:.2f} to {gain.high:.2f}); "
        f"threads: {found.threads}, batch: {found.batch}, {found.provider}"
    )


def _latency_rows(found: LatencyRecord | None) -> tuple[LatencyRow, ...]:
    if found is None:
        return ()
    return tuple(
        LatencyRow(
            file=name,
            median=f"{1e3 * time.median:.3g} ms",
            interval=f"{1e3 * time.low:.3g} to {1e3 * time.high:.3g} ms",
        )
        for name, time in (("original.onnx", found.before), ("pruned.onnx", found.after))
    )


def _fidelity_figure(found: FaithfulnessRecord) -> Figure:
    """Before and after the repair: how far predictions are from the unpruned network's."""
    cut, repaired = found.cut, found.repaired
    same = "" if repaired.agreement is None else f"{_percent(repaired.agreement)} same class"
    agreed = [x.agreement for x in (cut, repaired) if x.agreement is not None]
    repairing = "" if repaired == cut else ", which repaired it"
    shares = f", most likely class the same on {' → '.join(map(_percent, agreed))}"
    return Figure(
        name="divergence, as cut → repaired",
        before=_nats(cut.kl),
        after=_nats(repaired.kl),
        change=same or _nats(repaired.kl),
        exact=f"from the unpruned network's predictions, in nats, on {found.n_images:,} "
        f"calibration images{repairing}{shares if agreed else ''}",
        left=None,
    )


def _nats(kl: float | None) -> str:
    return "not finite" if kl is None else f"{kl:.3f}"


def _cost_figure(name: str, before: int, after: int) -> Figure:
    left = after / before if before else 1.0
    return Figure(
        name=name,
        before=_short(before),
        after=_short(after),
        change=f"{_signed(100 * (left - 1))} %",
        exact=f"{before:,} → {after:,}",
        left=round(100 * left, 2),
    )


def _accuracy_of(manifest: ManifestFile) -> str:
    if manifest.accuracy is None:
        return ""
    return (
        f"Accuracy is measured on the {manifest.accuracy.n_images:,} calibration images, "
        "not on unseen ones."
    )


# ---- groups -------------------------------------------------------------------------------------


def _groups(plan: PlanFile, ranking: RankingFile) -> tuple[GroupRow, ...]:
    ranked = [(group.name, group.units, len(group.scores)) for group in ranking.groups]
    if ranked != [(group.name, group.units, group.units) for group in plan.groups]:
        raise ArtifactError(
            "ranking.json and plan.json list different groups, so they are not of one run",
            hint="prune again",
        )
    widest = max((group.units for group in plan.groups), default=1)
    return tuple(
        _group(planned, scored, widest, planned.name in ranking.protected)
        for planned, scored in zip(plan.groups, ranking.groups, strict=True)
    )


def _group(
    planned: PlannedGroupRecord, scored: RankedGroup, widest: int, protected: bool
) -> GroupRow:
    is_kept = np.ones(planned.units, bool)
    is_kept[list(planned.removed_units)] = False
    after = int(is_kept.sum())
    return GroupRow(
        name=planned.name,
        before=planned.units,
        after=after,
        change=_percent(1 - after / planned.units),
        # Lengths by the square root: the widest group may have a hundred times the units.
        track=round(100 * math.sqrt(planned.units / widest), 1),
        left=round(100 * after / planned.units, 1),
        protected=protected,
        scores=histogram(np.array(scored.scores), np.array(scored.stderr), is_kept),
    )


# ---- validation and provenance ------------------------------------------------------------------


def _check(check: CheckRecord) -> CheckRow:
    error = check.max_abs if check.max_rel is None else check.max_rel
    return CheckRow(
        name=check.name,
        ok=check.ok,
        error="" if error is None else f"{error:.1e}",
        allowed="" if check.tolerance is None else f"{check.tolerance:.0e}",
        detail=check.detail,
    )


def _divergence_rows(found: DivergenceRecord | None) -> tuple[tuple[str, str], ...]:
    """Return where the file parts from the network; nothing if it does not."""
    if found is None:
        return ()
    error = None if found.error is None else f"{found.error:.1e} ({found.case})"
    return _present(
        ("node", f"{found.node} ({found.op})"),
        ("value", found.value),
        ("error", error),
        ("module", found.module or None),
        ("source", found.source or None),
        ("weights", ", ".join(found.weights) or None),
        ("group", ", ".join(found.groups) or None),
        ("shown by", ", ".join(found.files) or None),
    )


def _command(argv: Sequence[str]) -> str:
    """Return the command as one would type it; '' if the run was not a command."""
    if not argv:
        return ""
    name = PurePath(argv[0]).name
    typed = ["python", "-m", "graphprune_cli"] if name == "__main__.py" else [name]
    return shlex.join([*typed, *argv[1:]])


def _refit(found: LayerGainRecord) -> Refit:
    before, after = (
        "not finite" if share is None else f"{100 * share:.3g} %"
        for share in (found.before, found.after)
    )
    ridge = "left as it was" if found.ridge is None else f"{found.ridge:g}"
    return Refit(layer=found.layer, before=before, after=after, ridge=ridge)


def _stages(timings: dict[str, float]) -> tuple[Stage, ...]:
    longest = max(timings.values(), default=0.0) or 1.0
    return tuple(
        Stage(name=name, seconds=f"{seconds:.2f}", share=round(100 * seconds / longest, 1))
        for name, seconds in timings.items()
    )


def _model_rows(model: ModelRecord) -> tuple[tuple[str, str], ...]:
    shapes = " and ".join("×".join(map(str, shape)) for shape in model.input_shapes)
    return _present(
        ("model", model.spec), ("weights", model.weights), ("input, without batch", shapes)
    )


def _data_rows(data: DataRecord | None) -> tuple[tuple[str, str], ...]:
    if data is None:
        return (("calibration data", "none"),)
    size = data.resize if isinstance(data.resize, tuple) else (data.resize,)
    return _present(
        ("calibration data", data.spec),
        ("mean", _listed(data.mean)),
        ("std", _listed(data.std)),
        ("resized to", _listed(size)),
        ("first images only", _listed((data.limit,))),
    )


def _ranking_rows(ranking: RankingFile) -> tuple[tuple[str, str], ...]:
    images = f"{ranking.n_images:,}" if ranking.n_images else None
    return _present(
        ("criterion", ranking.criterion),
        ("game", ranking.game),
        ("estimator", ranking.estimator),
        ("value of a coalition", ranking.value),
        ("aggregate", ranking.aggregate),
        ("coalitions evaluated", f"{ranking.evaluations:,}" if ranking.evaluations else None),
        ("calibration images", images),
        ("seed", str(ranking.seed)),
    )


def _pruning_rows(manifest: ManifestFile, plan: PlanFile) -> tuple[tuple[str, str], ...]:
    predicted = " (as predicted, and the last as measured)" if plan.of == "latency" else ""
    return _present(
        ("ratio asked", _percent(plan.asked)),
        ("ratio reached", _percent(plan.reached)),
        ("of", _NAMES.get(plan.of, plan.of)),
        ("scope", plan.scope),
        (f"steps, gone by the end of each{predicted}", _steps(manifest.steps)),
        *_weighing_rows(manifest.weighing),
        *_exchange_rows(manifest.exchange),
        *_candidate_rows(manifest.candidates),
        ("repair", manifest.repair.method),
        *_held_out_rows(manifest.repair.held_out),
        ("tensors changed by the repair", str(len(manifest.repair.changed))),
        ("seed", str(manifest.seed)),
    )


def _weighing_rows(found: WeighingRecord | None) -> list[tuple[str, str | None]]:
    if found is None:
        return []
    label = f"weight of the refit game, divergence after the repair on {found.n_images:,} images"
    return [(label, ", ".join(found.told))]


def _held_out_rows(found: HeldOutRecord | None) -> list[tuple[str, str | None]]:
    if found is None:
        return []
    label = f"repaired without {found.n_images:,} of the images, divergence on these"
    return [(label, found.told)]


def _exchange_rows(found: ExchangeRecord | None) -> list[tuple[str, str | None]]:
    if found is None:
        return []
    label = f"exchange, {found.value} on {found.n_images:,} images"
    return [(label, f"{found.gain}, higher is better ({found.evaluations:,} coalitions)")]


def _steps(steps: Sequence[StepRecord]) -> str | None:
    return ", ".join(_percent(step.reached) for step in steps) or None


def _candidate_rows(choice: ChoiceRecord | None) -> list[tuple[str, str | None]]:
    """Return how far each candidate's network is from the unpruned one, the best first."""
    if choice is None:
        return []
    found = ", ".join(f"{c.criterion} {_nats(c.fidelity.kl)}" for c in choice.candidates)
    return [(f"candidates, divergence on {choice.n_images:,} images held out", found)]


def _present(*rows: tuple[str, str | None]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in rows if value is not None)


# ---- numbers as text ----------------------------------------------------------------------------


def _listed(values: Sequence[float | None] | None) -> str | None:
    if values is None or None in values:
        return None
    return ", ".join(f"{value:g}" for value in values)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _signed(number: float) -> str:
    """Format with one digit and a true minus sign; what rounds to zero has none."""
    text = f"{abs(number):.1f}"
    if text == "0.0":
        return "±0.0"
    return f"−{text}" if number < 0 else f"+{text}"


def _short(count: int) -> str:
    """Format a count with three digits: 1.82 G, 11.7 M, 4,800."""
    for size, suffix in ((10**9, "G"), (10**6, "M")):
        if count >= size:
            return f"{count / size:.3g} {suffix}"
    return f"{count:,}"
