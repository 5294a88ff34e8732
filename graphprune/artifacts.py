"""The files of a run: their formats, read with checks and written atomically.

Every JSON file has a ``format`` key, ``graphprune/KIND/VERSION``. A file of another version, a
damaged file and a file with missing keys are refused, each with what is wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from graphprune.coalition import removed_entries, removed_outputs
from graphprune.cost import Cost
from graphprune.data import DataSource
from graphprune.errors import ArtifactError
from graphprune.files import sha256_of, write_text
from graphprune.graph import DependencyGraph
from graphprune.load import ModelSource
from graphprune.ranking import (
    Effort,
    GroupScores,
    MaskedScores,
    Ranking,
    RefitScores,
    Scores,
)
from graphprune.selection import PlannedGroup, PruningPlan
from graphprune.staging import staging_of

MAX_BYTES = 1 << 30
"""A larger JSON file is refused unread."""


STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
"""How every record of a file is read."""


class _Record(BaseModel):
    model_config = STRICT


class ModelRecord(_Record):
    """Where the model came from.

    Args:
        spec: MODEL as typed.
        weights: ``--weights`` as typed.
        input_shapes: Shapes without batch, as used.
        sha256: Hash of class name and state dict.
        folder: Where the command ran; relative paths are looked up there too.
        unpin_outputs: Patterns of the outputs that may shrink; none unless asked for.
    """

    spec: str
    weights: str | None
    input_shapes: tuple[tuple[int, ...], ...]
    sha256: str
    folder: str
    unpin_outputs: tuple[str, ...]

    def source(self) -> ModelSource:
        """Return what loads the same model again, from this or from the recorded folder."""
        return ModelSource(
            spec=located(self.spec, self.folder),
            weights=None if self.weights is None else located(self.weights, self.folder),
            input_shapes=self.input_shapes,
        )


class DataRecord(_Record):
    """Where the calibration data came from, see :class:`graphprune.data.DataSource`."""

    spec: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    resize: int | tuple[int, int] | None
    limit: int | None
    sha256: str
    folder: str

    def source(self) -> DataSource:
        """Return what reads the same data again."""
        return DataSource(
            spec=located(self.spec, self.folder),
            mean=self.mean,
            std=self.std,
            resize=self.resize,
            limit=self.limit,
        )


class EffortRecord(_Record):
    """What scores took, see :class:`graphprune.ranking.Effort`."""

    estimator: str
    evaluations: int
    stability: float | None
    stopped: str


class MaskedRecord(_Record):
    """A group's values in the masked game, where its scores are others."""

    scores: tuple[float, ...]
    stderr: tuple[float, ...]


class RankedGroup(_Record):
    """Scores of one group; ``scores[k]`` belongs to its k-th unit."""

    name: str
    units: int
    scores: tuple[float, ...]
    stderr: tuple[float, ...]
    effort: EffortRecord | None
    refit: tuple[float, ...] | None = None
    refit_greedy: tuple[float, ...] | None = None
    masked: MaskedRecord | None = None


class RankingFile(_Record):
    """``ranking.json``."""

    format: Literal["graphprune/ranking/1"] = "graphprune/ranking/1"
    criterion: str
    game: str | None
    estimator: str | None
    value: str | None
    aggregate: str | None
    semivalue: str | None
    for_ratio: float | None = None
    for_repair: str | None = None
    evaluations: int
    n_images: int
    seed: int
    model_hash: str
    model: ModelRecord
    data: DataRecord | None
    protected: tuple[str, ...]
    notes: tuple[str, ...]
    groups: tuple[RankedGroup, ...]


class PlannedGroupRecord(_Record):
    """What a plan does to one group."""

    name: str
    units: int
    removed_units: tuple[int, ...]


class CostRecord(_Record):
    """Costs of one network; ``latency`` (seconds) where it was measured."""

    units: int
    params: int
    macs: int
    latency: float | None = None

    @model_serializer(mode="wrap")
    def _without_unmeasured(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        costs: dict[str, Any] = serialize(self)
        return {name: cost for name, cost in costs.items() if cost is not None}


class CostsRecord(_Record):
    """Costs before and after."""

    before: CostRecord
    after: CostRecord


class PlanFile(_Record):
    """``plan.json``."""

    format: Literal["graphprune/plan/1"] = "graphprune/plan/1"
    removed: dict[str, dict[str, tuple[int, ...]]]
    removed_outputs: dict[str, dict[str, tuple[int, ...]]]
    groups: tuple[PlannedGroupRecord, ...]
    cost: CostsRecord
    of: str
    scope: str
    asked: float
    reached: float
    criterion: str
    seed: int
    model_hash: str


class AccuracyRecord(_Record):
    """Share of images whose most likely class is the label."""

    n_images: int
    before: float
    after: float


def _finite_or_none(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Error = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""What was measured; None where nothing was, or nothing finite."""


class FidelityRecord(_Record):
    """How near predictions are to the unpruned network's, see :class:`graphprune.fidelity.Judge`.

    ``kl`` and ``kl_stderr`` are None where predictions are not finite.
    """

    kl: Error
    kl_stderr: Error
    agreement: float | None


class FaithfulnessRecord(_Record):
    """How faithful a network is as it was cut, and as it was repaired, on calibration images."""

    n_images: int
    cut: FidelityRecord
    repaired: FidelityRecord


class CandidateRecord(_Record):
    """What one criterion's plan came to, on images held out."""

    criterion: str
    reached: float
    fidelity: FidelityRecord


class ChoiceRecord(_Record):
    """What ``--criterion auto`` compared, the best first."""

    n_images: int
    candidates: tuple[CandidateRecord, ...]


class StepRecord(_Record):
    """What was gone by the end of a step."""

    asked: float
    reached: float
    units: int


class WeightRecord(_Record):
    """A share of the refit game in the scores, and the divergence that it leaves in nats.

    ``greedy``: whether its values are those of units that go the cheapest first.
    """

    refit: float
    kl: Error
    greedy: bool = False


class WeighingRecord(_Record):
    """How far scores look ahead to the repair, the weight kept first, see ``Weighed``."""

    n_images: int
    tried: tuple[WeightRecord, ...]

    @property
    def told(self) -> tuple[str, ...]:
        """Every weight and what it leaves, for people."""
        return tuple(
            f"{each.refit:g}{' greedy' if each.greedy else ''} "
            f"({'infinite' if each.kl is None else f'{each.kl:.3g} nats'})"
            for each in self.tried
        )


class ExchangeRecord(_Record):
    """How units traded places: mean worth of what is kept, see ``Exchanged``."""

    value: str
    before: Error
    after: Error
    evaluations: int
    n_images: int

    @property
    def gain(self) -> str:
        """From which worth to which, for people."""
        return " to ".join("-" if w is None else f"{w:.3g}" for w in (self.before, self.after))


class CheckRecord(_Record):
    """One check of a validation."""

    name: str
    ok: bool
    detail: str
    max_abs: Error
    max_rel: Error
    tolerance: float | None
    mean_abs: Error = None
    mean_rel: Error = None
    p99_abs: Error = None
    p99_rel: Error = None
    cosine: Error = None


class DivergenceRecord(_Record):
    """Where a file parts from its network, see :class:`graphprune.verify.report.Divergence`.

    ``files``: what shows it, see :func:`graphprune.verify.save_witness`.
    """

    case: str
    node: str
    op: str
    value: str
    error: Error
    module: str
    source: str
    weights: tuple[str, ...]
    groups: tuple[str, ...]
    files: tuple[str, ...]


class ValidationRecord(_Record):
    """A whole validation."""

    ok: bool
    checks: tuple[CheckRecord, ...]
    divergence: DivergenceRecord | None = None


class IntervalRecord(_Record):
    """A median with its 95 % confidence interval, of ``n`` measurements."""

    median: float
    low: float
    high: float
    n: int


class LatencyRecord(_Record):
    """Seconds of a run of the unpruned and of the pruned network's file, timed in turn."""

    before: IntervalRecord
    after: IntervalRecord
    speedup: IntervalRecord
    threads: int
    batch: int
    provider: str


class HeldOutRecord(_Record):
    """Mean divergence from the unpruned network's predictions on images that were not fitted."""

    n_images: int
    before: Error
    after: Error

    @property
    def told(self) -> str:
        """What is left and what there was, for people."""
        after, before = (
            "infinite" if kl is None else f"{kl:.3f}" for kl in (self.after, self.before)
        )
        return f"{after} nats, as cut {before}"


class LayerGainRecord(_Record):
    """What the refit of one layer was worth: shares of variance, see ``LayerGain``."""

    layer: str
    before: Error
    after: Error
    ridge: float | None


class RepairRecord(_Record):
    """What a repair did."""

    method: str
    changed: tuple[str, ...]
    notes: tuple[str, ...]
    held_out: HeldOutRecord | None = None
    layers: tuple[LayerGainRecord, ...] = ()


class ManifestFile(_Record):
    """``manifest.json``: how the files of a run came about."""

    format: Literal["graphprune/manifest/1"] = "graphprune/manifest/1"
    argv: tuple[str, ...]
    versions: dict[str, str]
    seed: int
    model: ModelRecord
    data: DataRecord | None
    hashes: dict[str, str]
    timings: dict[str, float]
    repair: RepairRecord
    accuracy: AccuracyRecord | None
    latency: LatencyRecord | None
    validation: ValidationRecord
    notes: tuple[str, ...]
    fidelity: FaithfulnessRecord | None = None
    steps: tuple[StepRecord, ...] = ()
    candidates: ChoiceRecord | None = None
    weighing: WeighingRecord | None = None
    exchange: ExchangeRecord | None = None
    sha256: str | None = None

    def sealed(self) -> ManifestFile:
        """Return the same with the hash of all the rest, so that a change of this file shows."""
        return self.model_copy(update={"sha256": self._hash_of_the_rest()})

    @property
    def is_whole(self) -> bool:
        """Whether it is as it was sealed, or never was."""
        return self.sha256 in (None, self._hash_of_the_rest())

    def _hash_of_the_rest(self) -> str:
        rest = self.model_dump(mode="json", exclude={"sha256"})
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


_File = TypeVar("_File", bound=BaseModel)


@dataclass(frozen=True)
class RunFolder:
    """The folder that holds the files of a run (``--out``)."""

    path: Path

    @property
    def ranking(self) -> Path:
        """``ranking.json``."""
        return self.path / "ranking.json"

    @property
    def plan(self) -> Path:
        """``plan.json``."""
        return self.path / "plan.json"

    @property
    def manifest(self) -> Path:
        """``manifest.json``."""
        return self.path / "manifest.json"

    @property
    def program(self) -> Path:
        """``pruned.pt2``."""
        return self.path / "pruned.pt2"

    @property
    def onnx(self) -> Path:
        """``pruned.onnx``."""
        return self.path / "pruned.onnx"

    @property
    def original(self) -> Path:
        """``original.onnx``: the unpruned network, to compare the latency with."""
        return self.path / "original.onnx"

    @property
    def report(self) -> Path:
        """``report.html``."""
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        """``plots/``: pictures of the run, where they were asked for."""
        return self.path / "plots"

    @property
    def divergence(self) -> Path:
        """``divergence``: the part of an ONNX file that shows where it parts from its network."""
        return self.path / "divergence"

    @property
    def state(self) -> Path:
        """``rank-state.npz``: what an interrupted ranking has found so far."""
        return self.path / "rank-state.npz"

    @property
    def onnx_data(self) -> Path:
        """``pruned.onnx.data``: weights beyond what fits into an ONNX file."""
        return self.path / "pruned.onnx.data"

    @property
    def staging(self) -> RunFolder:
        """Where ``prune`` makes its files, before they replace the old ones all at once."""
        return RunFolder(staging_of(self.path))

    @property
    def replaced(self) -> tuple[str, ...]:
        """Names of the files that ``prune`` replaces all at once, the manifest last."""
        data = f"{self.original.name}.data", self.original.name, self.onnx_data.name
        listed = (self.ranking, self.plan, self.program, self.onnx, self.report, self.manifest)
        return (*data, *(path.name for path in listed))

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the files that a manifest vouches for."""
        listed = (self.ranking, self.plan, self.program, self.onnx, self.onnx_data)
        return {path.name: sha256_of(path) for path in listed if path.is_file()}


def read(path: Path, kind: type[_File]) -> _File:
    """Read one file of a run.

    Raises:
        ArtifactError: It is missing, damaged, of another version or lacks keys.
    """
    text = _text(path)
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is damaged: {error}", hint="run the command that writes it again"
        ) from error
    expected = kind.model_fields["format"].default
    found = data.get("format") if isinstance(data, dict) else None
    if found != expected:
        raise ArtifactError(
            f"{path} has format {found!r}, this version reads {expected!r}",
            hint="run the command that writes it again",
        )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(place) for place in first["loc"])
        raise ArtifactError(
            f"{path} is damaged: {where}: {first['msg']}",
            hint="run the command that writes it again",
        ) from error


def write(path: Path, record: BaseModel) -> None:
    """Write one file of a run atomically."""
    write_text(path, json.dumps(record.model_dump(mode="json"), indent=1) + "\n")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{path} is larger than {MAX_BYTES >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        command = "rank MODEL" if path.name == "ranking.json" else "prune"
        raise ArtifactError(
            f"there is no {path.name} in {path.parent}",
            hint=f"run `graphprune {command}` first, or name its folder with --out",
        ) from error
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{path} is damaged: it is no text", hint="run the command that writes it again"
        ) from error
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror or error}",
            hint="name the folder of a run with --out",
        ) from error


def located(spec: str, folder: str) -> str:
    """Return a path (or ``path.py:factory``) that exists, here or in the recorded folder."""
    place, colon, name = spec.rpartition(":") if ".py:" in spec else (spec, "", "")
    elsewhere = Path(folder) / place
    # Unlike Path.exists, this says no to a path that may not be looked at.
    if not os.path.exists(place) and os.path.exists(elsewhere):  # noqa: PTH110
        return f"{elsewhere}{colon}{name}"
    return spec


# ---- records to files and back ------------------------------------------------------------------


def ranking_file(ranking: Ranking, model: ModelRecord, data: DataRecord | None) -> RankingFile:
    """Describe a ranking."""
    return RankingFile(
        criterion=ranking.criterion,
        game=ranking.game,
        estimator=ranking.estimator,
        value=ranking.value,
        aggregate=ranking.aggregate,
        semivalue=ranking.semivalue,
        for_ratio=ranking.for_ratio,
        for_repair=ranking.for_repair,
        evaluations=ranking.evaluations,
        n_images=ranking.n_images,
        seed=ranking.seed,
        model_hash=model.sha256,
        model=model,
        data=data,
        protected=ranking.protected,
        notes=ranking.notes,
        groups=tuple(map(_ranked_group, ranking.groups)),
    )


def _ranked_group(group: GroupScores) -> RankedGroup:
    effort = group.effort
    return RankedGroup(
        name=group.name,
        units=group.units,
        scores=tuple(group.scores.tolist()),
        stderr=tuple(group.stderr.tolist()),
        effort=None
        if effort is None
        else EffortRecord(
            estimator=effort.estimator,
            evaluations=effort.evaluations,
            stability=effort.stability,
            stopped=effort.stopped,
        ),
        refit=_listed(None if group.refit is None else group.refit.average),
        refit_greedy=_listed(None if group.refit is None else group.refit.greedy),
        masked=None
        if group.masked is None
        else MaskedRecord(
            scores=tuple(group.masked.scores.tolist()), stderr=tuple(group.masked.stderr.tolist())
        ),
    )


def _listed(values: Scores | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values.tolist())


def _refit_of(group: RankedGroup) -> RefitScores | None:
    if group.refit is None:
        return None
    greedy = None if group.refit_greedy is None else np.array(group.refit_greedy)
    return RefitScores(np.array(group.refit), greedy)


def _masked_of(record: MaskedRecord | None) -> MaskedScores | None:
    if record is None:
        return None
    return MaskedScores(np.array(record.scores), np.array(record.stderr))


def _effort_of(record: EffortRecord | None) -> Effort | None:
    if record is None:
        return None
    return Effort(record.estimator, record.evaluations, record.stability, record.stopped)


def ranking_of(file: RankingFile, graph: DependencyGraph) -> Ranking:
    """Return the ranking that a file describes, for the network it was made for.

    Raises:
        ArtifactError: A group has more or fewer scores than units.
        OptionError: The network's groups are others.
    """
    for group in file.groups:
        refit = group.scores if group.refit is None else group.refit
        masked = group if group.masked is None else group.masked
        greedy = refit if group.refit_greedy is None else group.refit_greedy
        counts = [len(each) for each in (group.scores, group.stderr, refit)]
        others = len(greedy), len(masked.scores), len(masked.stderr)
        if {*counts, *others} != {group.units}:
            raise ArtifactError(
                f"ranking.json is damaged: group {group.name} has {group.units} units, "
                f"{counts[0]} scores, {counts[1]} standard errors, {counts[2]} values of refits, "
                f"{len(greedy)} greedy ones and {len(masked.scores)} of the masked game",
                hint="rank again",
            )
    return Ranking(
        graph=graph,
        groups=tuple(
            GroupScores(
                group.name,
                np.array(group.scores),
                np.array(group.stderr),
                _effort_of(group.effort),
                _refit_of(group),
                _masked_of(group.masked),
            )
            for group in file.groups
        ),
        criterion=file.criterion,
        game=file.game,
        estimator=file.estimator,
        value=file.value,
        aggregate=file.aggregate,
        for_ratio=file.for_ratio,
        for_repair=file.for_repair,
        evaluations=file.evaluations,
        n_images=file.n_images,
        seed=file.seed,
        protected=file.protected,
        semivalue=file.semivalue,
        notes=file.notes,
    )


def plan_file(plan: PruningPlan, model_hash: str) -> PlanFile:
    """Describe a plan."""
    return PlanFile(
        removed=_with_text_dims(plan.removed),
        removed_outputs=_with_text_dims(plan.removed_outputs),
        groups=tuple(
            PlannedGroupRecord(
                name=group.name, units=group.units, removed_units=group.removed_units
            )
            for group in plan.groups
        ),
        cost=CostsRecord(before=_cost_record(plan.before), after=_cost_record(plan.after)),
        of=plan.of,
        scope=plan.scope,
        asked=plan.asked,
        reached=plan.reached,
        criterion=plan.criterion,
        seed=plan.seed,
        model_hash=model_hash,
    )


def _with_text_dims(
    removed: Mapping[str, Mapping[int, tuple[int, ...]]],
) -> dict[str, dict[str, tuple[int, ...]]]:
    """JSON objects have text keys."""
    return {
        name: {str(dim): indices for dim, indices in by_dim.items()}
        for name, by_dim in removed.items()
    }


def plan_of(file: PlanFile, graph: DependencyGraph | None = None) -> PruningPlan:
    """Return the plan that a file describes.

    Args:
        file: The file.
        graph: The network that the plan is for; given, the removed entries are checked against it.

    Raises:
        ArtifactError: A unit is out of range or named twice, or units and entries disagree.
        OptionError: The plan was made for another network.
    """
    for group in file.groups:
        units = group.removed_units
        if sorted(set(units)) != list(units) or any(not 0 <= k < group.units for k in units):
            raise _damaged_plan(f"group {group.name} has {group.units} units and removes {units}")
    plan = PruningPlan(
        groups=tuple(PlannedGroup(g.name, g.units, g.removed_units) for g in file.groups),
        removed={name: _by_dim(name, by_dim) for name, by_dim in file.removed.items()},
        removed_outputs={n: _by_dim(n, by_dim) for n, by_dim in file.removed_outputs.items()},
        of=file.of,
        scope=file.scope,
        asked=file.asked,
        reached=file.reached,
        before=_cost_of(file.cost.before),
        after=_cost_of(file.cost.after),
        criterion=file.criterion,
        seed=file.seed,
    )
    if graph is not None:
        kept = plan.kept(graph)
        expected = removed_entries(graph, kept), removed_outputs(graph, kept)
        if expected != (plan.removed, plan.removed_outputs):
            raise _damaged_plan("its removed entries are not those of its removed units")
    return plan


def _by_dim(name: str, by_dim: Mapping[str, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    for dim in by_dim:
        if not dim.isdecimal():
            raise _damaged_plan(f"{dim!r} is no dim of {name}")
    return {int(dim): indices for dim, indices in by_dim.items()}


def _damaged_plan(what: str) -> ArtifactError:
    return ArtifactError(f"plan.json is damaged: {what}", hint="prune again")


def _cost_record(cost: Cost) -> CostRecord:
    return CostRecord(units=cost.units, params=cost.params, macs=cost.macs, latency=cost.latency)


def _cost_of(record: CostRecord) -> Cost:
    return Cost(units=record.units, params=record.params, macs=record.macs, latency=record.latency)


def as_json(record: BaseModel) -> Mapping[str, Any]:
    """Return a record as plain JSON types."""
    dumped: Mapping[str, Any] = record.model_dump(mode="json")
    return dumped
