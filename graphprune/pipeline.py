"""The pipeline as commands run it: each stage from and to the files of a run folder."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from graphprune import criteria
from graphprune.artifacts import (
    AccuracyRecord,
    CheckRecord,
    DataRecord,
    ManifestFile,
    ModelRecord,
    PlanFile,
    RankingFile,
    RepairRecord,
    RunFolder,
    ValidationRecord,
    plan_file,
    plan_of,
    ranking_file,
    ranking_of,
    read,
    write,
)
from graphprune.checkpoint import StateStore
from graphprune.coalition import stays
from graphprune.data import CalibrationBatches, DataSource, check_against, load_data
from graphprune.description import GroupFacts, NetworkFacts, describe
from graphprune.distributed import ALONE, Ranks
from graphprune.doctor import versions
from graphprune.errors import ArtifactError, ModelError, OptionError, TrustError
from graphprune.export import export_onnx, load_program, program_of, save_program
from graphprune.files import sha256_of
from graphprune.game.evaluation import MEMORY, Running, class_units
from graphprune.game.masking import mask_network
from graphprune.game.value import class_logits
from graphprune.graph import DependencyGraph, Kept, trace
from graphprune.load import LoadedModel, ModelSource, load_model
from graphprune.progress import Progress, silent
from graphprune.ranking import Ranking
from graphprune.repairs import RepairResult, repair
from graphprune.repairs import available as repair_methods
from graphprune.report import write_report
from graphprune.selection import PruningPlan, check_options, select
from graphprune.steering import groups_made_by, protected_groups
from graphprune.surgery import PrunedModel, cut
from graphprune.tracing import named_tensors
from graphprune.verify import ValidationReport, same_weights, validate

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
    """How to rank, see :func:`graphprune.criteria.rank`; ``resume`` takes up an interrupted run."""

    criterion: str = "shapley"
    game: str | None = None
    estimator: str = "auto"
    value: str | None = None
    aggregate: str | None = None
    semivalue: str = "shapley"
    budget: int | None = None
    seconds: float | None = None
    until_stable: float | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """How to prune, see :func:`graphprune.selection.select`.

    Args:
        ratio: Fraction to remove.
        of: ``units``, ``params`` or ``macs``.
        scope: ``group`` or ``global``.
        min_units: Units that every group keeps at least.
        round_to: Keep multiples of this many units.
        repair: ``auto`` (BatchNorm statistics where there is data) or a method's name.
        ranking: A ranking file other than the run folder's.
    """

    ratio: float
    of: str = "units"
    scope: str = "group"
    min_units: int = 1
    round_to: int = 1
    repair: str = "auto"
    ranking: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A loaded and traced network with its calibration data.

    Args:
        loaded: The network as loaded.
        graph: The network as traced.
        data: Calibration images, None if none were given.
        model: Where the network came from.
        source: Where the data came from.
        timings: Seconds by stage.
    """

    loaded: LoadedModel
    graph: DependencyGraph
    data: CalibrationBatches | None
    model: ModelRecord
    source: DataRecord | None
    timings: dict[str, float]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided on the user's behalf."""
        return (*self.loaded.notes, *_graph_notes(self.graph))


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A ranking and the network that was ranked."""

    subject: Subject
    ranking: Ranking


@dataclass(frozen=True, kw_only=True)
class Selected:
    """A plan that has not been carried out."""

    subject: Subject
    ranking: Ranking
    plan: PruningPlan


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A pruned network whose files are written."""

    subject: Subject
    plan: PruningPlan
    manifest: ManifestFile
    report: ValidationReport
    folder: RunFolder


# ---- load and trace -----------------------------------------------------------------------------


def prepare(model: ModelSource, data: DataSource | None, common: Common) -> Subject:
    """Load a network and its data, check that they fit, and trace the network.

    Raises:
        InputError: Something cannot be read or does not fit.
        TraceError: The network cannot be traced.
    """
    timings: dict[str, float] = {}
    with _timed(timings, "load"):
        batches = None if data is None else load_data(data)
        shape = batches.input_shapes[0] if batches is not None else None
        loaded = load_model(model, trust=common.trust, data_shape=shape)
    with _timed(timings, "trace"):
        graph = trace(loaded.module, loaded.example_inputs, unpin_outputs=common.unpin_outputs)
    if batches is not None:
        n_classes = _n_classes(graph) if batches.has_labels else None
        check_against(batches, n_classes, loaded.source.input_shapes)
    return Subject(
        loaded=loaded,
        graph=graph,
        data=batches,
        model=_model_record(loaded, common),
        source=None if data is None or batches is None else _data_record(data, batches),
        timings=timings,
    )


def _n_classes(graph: DependencyGraph) -> int | None:
    """Return how many classes a network tells apart; None if it returns no predictions."""
    with torch.inference_mode():
        outputs = graph.program.module(*graph.example_inputs)
    try:
        return int(class_logits(torch.utils._pytree.tree_leaves(outputs)).shape[-1])
    except ModelError:
        return None


def _graph_notes(graph: DependencyGraph) -> tuple[str, ...]:
    notes = []
    if graph.program.unused:
        branches = sorted({name.split(".")[0] for name in graph.program.unused})
        notes.append(f"not used in evaluation mode and left as it is: {', '.join(branches)}")
    if not graph.program.dynamic_batch:
        notes.append(f"the network only takes batches of {graph.batch_size}")
    for output in graph.outputs:
        if output.place in graph.output_units:
            notes.append(f"output {output.name} may shrink, as asked: callers must expect that")
    for overload, count in graph.unknown_ops.items():
        notes.append(f"no rule covers {overload} ({count}x): what enters it stays whole")
    return tuple(notes)


def _model_record(loaded: LoadedModel, common: Common) -> ModelRecord:
    source = loaded.source
    return ModelRecord(
        spec=source.spec,
        weights=source.weights,
        input_shapes=source.input_shapes,
        sha256=loaded.sha256,
        folder=str(Path.cwd()),
        unpin_outputs=common.unpin_outputs,
    )


def _data_record(source: DataSource, batches: CalibrationBatches) -> DataRecord:
    return DataRecord(
        spec=source.spec,
        mean=source.mean,
        std=source.std,
        resize=source.resize,
        limit=source.limit,
        sha256=batches.sha256,
        folder=str(Path.cwd()),
    )


# ---- inspect ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a network is made of.

    Args:
        facts: Everything.
        groups: The groups to show.
        protected: Groups that would be left alone.
    """

    facts: NetworkFacts
    groups: tuple[GroupFacts, ...]
    protected: tuple[str, ...]


def inspect(subject: Subject, options: RankOptions, patterns: tuple[str, ...]) -> Inspection:
    """Describe a network.

    Args:
        subject: The network.
        options: Of which ``only`` and ``skip`` count.
        patterns: Groups to show, or what makes their units; all groups by default.

    Raises:
        OptionError: A pattern matches nothing.
    """
    protected = left_alone(subject, options)
    chosen = {name for pattern in patterns for name in groups_made_by(subject.graph, pattern)}
    facts = describe(subject.graph)
    shown = tuple(group for group in facts.groups if group.name in chosen or not patterns)
    return Inspection(facts=facts, groups=shown, protected=protected)


# ---- rank ---------------------------------------------------------------------------------------


def rank(
    model: ModelSource, data: DataSource | None, options: RankOptions, common: Common
) -> Ranked:
    """Rank a network and write ``ranking.json``.

    Raises:
        GraphpruneError: See :func:`prepare` and :func:`graphprune.criteria.rank`.
    """
    return rank_subject(prepare(model, data, common), options, common)


def left_alone(subject: Subject, options: RankOptions) -> tuple[str, ...]:
    """Return the groups that ``--only`` and ``--skip`` leave alone.

    Raises:
        OptionError: A pattern matches nothing.
    """
    return protected_groups(subject.graph, options.only, options.skip)


def rank_subject(subject: Subject, options: RankOptions, common: Common) -> Ranked:
    """Rank a prepared network and write ``ranking.json``.

    Ranks share the work; the leading one writes.
    """
    folder, ranks = RunFolder(common.out), common.ranks
    _check_alike(subject, options, common)
    store = None
    if not common.dry_run:
        model_hash = subject.model.sha256
        store = StateStore(path=folder.state, model=model_hash, resume=options.resume, ranks=ranks)
    with _timed(subject.timings, "rank"):
        ranking = criteria.rank(
            subject.graph,
            subject.data,
            criterion=options.criterion,
            game=options.game,
            estimator=options.estimator,
            value=options.value,
            aggregate=options.aggregate,
            semivalue=options.semivalue,
            budget=options.budget,
            seconds=options.seconds,
            until_stable=options.until_stable,
            only=options.only,
            skip=options.skip,
            seed=common.seed,
            running=Running(
                device=chosen_device(common.device),
                max_memory=common.max_memory,
                precision=common.precision,
            ),
            store=store,
            progress=common.progress,
            ranks=ranks,
        )
    if store is not None and ranks.leads:
        write(folder.ranking, ranking_file(ranking, subject.model, subject.source))
        store.clear()
    return Ranked(subject=subject, ranking=ranking)


def _check_alike(subject: Subject, options: RankOptions, common: Common) -> None:
    """Check that all ranks rank the same.

    Raises:
        OptionError: They do not.
    """
    data = "" if subject.data is None else subject.data.sha256
    running = (common.max_memory, common.precision)
    told = (options, common.seed, common.unpin_outputs, common.dry_run, running)
    common.ranks.check_same("the model", subject.model.sha256)
    common.ranks.check_same("the calibration data", data)
    common.ranks.check_same("the options", repr(told))
    common.ranks.check_same("the device", chosen_device(common.device))
    common.ranks.check_same("the version of torch", torch.__version__)
    common.ranks.check_same("the number of threads", str(torch.get_num_threads()))


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


# ---- prune --------------------------------------------------------------------------------------


def plan_run(
    model: ModelSource | None,
    data: DataSource | None,
    rank_options: RankOptions,
    options: PruneOptions,
    common: Common,
) -> Selected:
    """Rank if need be, and select; nothing is cut.

    Args:
        model: The network; None takes model, data and ranking from the run folder.
        data: Calibration data; None takes the ranking's, if there is a ranking.
        rank_options: How to rank, where a ranking is needed.
        options: How to prune.
        common: What every command is told.

    Raises:
        GraphpruneError: A stage's own error.
        BudgetError: The ratio cannot be reached.
    """
    _check_early(rank_options, options)
    if model is not None and options.ranking is None:
        ranked = rank(model, data, rank_options, common)
        subject, ranking = ranked.subject, ranked.ranking
    else:
        path = options.ranking or RunFolder(common.out).ranking
        file = read(path, RankingFile)
        subject = _recorded_subject(path, file, model, data, common)
        ranking = ranking_of(file, subject.graph)
    with _timed(subject.timings, "select"):
        plan = select(
            _protecting(ranking, rank_options),
            ratio=options.ratio,
            of=options.of,
            scope=options.scope,
            min_units=options.min_units,
            round_to=options.round_to,
        )
    return Selected(subject=subject, ranking=ranking, plan=plan)


def _protecting(ranking: Ranking, options: RankOptions) -> Ranking:
    """Return the ranking with what is to be left alone now added to what was when it was made."""
    now = protected_groups(ranking.graph, options.only, options.skip)
    protected = {*ranking.protected, *now}
    listed = tuple(group.name for group in ranking.graph.groups if group.name in protected)
    return replace(ranking, protected=listed)


def _check_early(rank_options: RankOptions, options: PruneOptions) -> None:
    """Refuse misspelt options before the long work, not after it."""
    check_options(options.ratio, options.of, options.scope, options.min_units, options.round_to)
    if options.repair not in ("auto", *repair_methods()):
        allowed = ", ".join(("auto", *repair_methods()))
        raise OptionError(f"repair {options.repair!r} is none of {allowed}")
    criteria.needs_data(rank_options.criterion)


def prune(
    model: ModelSource | None,
    data: DataSource | None,
    rank_options: RankOptions,
    options: PruneOptions,
    common: Common,
) -> Pruned:
    """Select, cut, repair, export and validate; writes every file of the run folder.

    Raises:
        GraphpruneError: See :func:`plan_run`.
    """
    return carry_out(plan_run(model, data, rank_options, options, common), options, common)


def carry_out(selected: Selected, options: PruneOptions, common: Common) -> Pruned:
    """Cut, repair, export and validate what was selected; writes the files of the run folder."""
    subject, plan, folder = selected.subject, selected.plan, RunFolder(common.out)
    kept = plan.kept(subject.graph)
    stages = _Stages(subject.timings, common.progress)
    with stages.next("prune"):
        smaller = cut(subject.graph, kept)
    with stages.next("repair"):
        repaired = _repaired(smaller, subject.data, options.repair)
    with stages.next("save"):
        ranking_record = ranking_file(selected.ranking, subject.model, subject.source)
        plan_record = plan_file(plan, subject.model.sha256)
        write(folder.ranking, ranking_record)
        write(folder.plan, plan_record)
        program = program_of(repaired.model)
        save_program(repaired.model, None, folder.program, program=program)
    with stages.next("export"):
        metadata = {
            "model_hash": subject.model.sha256,
            "plan_hash": sha256_of(folder.plan),
            "seed": str(common.seed),
            "version": versions().get("graphprune", ""),
        }
        export_onnx(repaired.model, folder.onnx, metadata=metadata, program=program)
    with stages.next("validate"):
        report = validate(
            repaired.model,
            folder.onnx,
            cut=smaller,
            masked=mask_network(subject.graph, kept),
            reloaded=load_program(folder.program),
            data=_renumbered(subject, kept),
        )
    manifest = _manifest(selected, repaired, report, folder, common)
    write(folder.manifest, manifest)
    write_report(folder, manifest, plan_record, ranking_record)
    return Pruned(subject=subject, plan=plan, manifest=manifest, report=report, folder=folder)


class _Stages:
    """Times the stages of :func:`carry_out` and tells how far they are."""

    _names = ("prune", "repair", "save", "export", "validate")

    def __init__(self, timings: dict[str, float], progress: Progress) -> None:
        self._timings = timings
        self._progress = progress

    @contextmanager
    def next(self, stage: str) -> Iterator[None]:
        """Run one stage."""
        place, total = self._names.index(stage), len(self._names)
        self._progress(stage, place, total)
        with _timed(self._timings, stage):
            yield
        self._progress(stage, place + 1, total)


def _recorded_subject(
    path: Path,
    file: RankingFile,
    model: ModelSource | None,
    data: DataSource | None,
    common: Common,
) -> Subject:
    """Load the network and data that a ranking was made of, unless others are given."""
    if model is None:
        model = file.model.source()
        _check_owner(path, model.runs_code, common)
    if data is None and file.data is not None:
        data = file.data.source()
        _check_owner(path, data.runs_code, common)
    subject = prepare(model, data, _as_ranked(file, common))
    if subject.model.sha256 != file.model_hash:
        raise ArtifactError(
            f"{model.spec} is not the network that was ranked: its weights or layers differ",
            hint="rank it again",
        )
    return subject


def _as_ranked(file: RankingFile, common: Common) -> Common:
    """Return the options with the outputs unpinned that were unpinned when ranking.

    Raises:
        OptionError: Others were asked for.
    """
    recorded = file.model.unpin_outputs
    if common.unpin_outputs not in ((), recorded):
        raise OptionError(
            "the ranking was made with all outputs pinned",
            hint="rank again with --unpin-output, or prune without it",
        )
    return replace(common, unpin_outputs=recorded)


def _check_owner(path: Path, runs_code: bool, common: Common) -> None:
    """Run code that a file names, and not the user, only if the file is the user's own."""
    if not runs_code or common.trust or platform.system() == "Windows":
        return
    if path.stat().st_uid != os.getuid():
        raise TrustError(
            f"{path} belongs to another user and names code to run",
            hint="name MODEL and --data yourself, or pass --trust",
        )


def _repaired(model: PrunedModel, data: CalibrationBatches | None, method: str) -> RepairResult:
    if method == "auto":
        method = "none" if data is None else "batchnorm"
    return repair(model, data, method=method)


def _manifest(
    selected: Selected,
    repaired: RepairResult,
    report: ValidationReport,
    folder: RunFolder,
    common: Common,
) -> ManifestFile:
    subject = selected.subject
    return ManifestFile(
        argv=common.argv,
        versions=versions(),
        seed=common.seed,
        model=subject.model,
        data=subject.source,
        hashes=folder.hashes(),
        timings={stage: round(seconds, 3) for stage, seconds in subject.timings.items()},
        repair=RepairRecord(method=repaired.method, changed=repaired.changed, notes=repaired.notes),
        accuracy=_accuracies(selected, repaired.model),
        validation=validation_record(report),
        notes=subject.notes,
    )


def validation_record(report: ValidationReport) -> ValidationRecord:
    """Describe a validation."""
    return ValidationRecord(
        ok=report.ok,
        checks=tuple(
            CheckRecord(
                name=check.name,
                ok=check.ok,
                detail=check.detail,
                max_abs=check.max_abs,
                max_rel=check.max_rel,
                tolerance=check.tolerance,
            )
            for check in report.checks
        ),
    )


def _accuracies(selected: Selected, pruned: nn.Module) -> AccuracyRecord | None:
    subject = selected.subject
    renumbered = _renumbered(subject, selected.plan.kept(subject.graph))
    if subject.data is None or renumbered is None or not subject.data.has_labels:
        return None
    return AccuracyRecord(
        n_images=subject.data.n_images,
        before=accuracy(subject.graph.program.module, subject.data),
        after=accuracy(pruned, renumbered),
    )


def _renumbered(subject: Subject, kept: Kept) -> CalibrationBatches | None:
    """Return the data with labels that count the classes left; -1 where an image's class is gone.

    No prediction equals -1, so an image whose class is gone counts as wrong.
    """
    units = None if subject.data is None else class_units(subject.graph)
    if subject.data is None or units is None or not subject.data.has_labels:
        return subject.data
    remains = torch.from_numpy(stays(units, kept))
    numbers = torch.where(remains, remains.cumsum(0) - 1, -1)
    return replace(
        subject.data,
        batches=tuple(
            replace(batch, labels=None if batch.labels is None else numbers[batch.labels])
            for batch in subject.data
        ),
    )


def accuracy(module: nn.Module, data: CalibrationBatches) -> float:
    """Return the share of labelled images whose most likely class is the label."""
    right = 0
    dtype = next((t.dtype for t in named_tensors(module).values() if t.is_floating_point()), None)
    with torch.inference_mode():
        for batch in data.to(dtype=dtype):
            outputs = torch.utils._pytree.tree_leaves(module(*batch.inputs))
            predicted: Tensor = class_logits(outputs).mean(1).argmax(-1)
            assert batch.labels is not None
            right += int((predicted == batch.labels).sum())
    return right / data.n_images


# ---- validate -----------------------------------------------------------------------------------


def validate_run(data: DataSource | None, provider: str, common: Common) -> ValidationReport:
    """Prove again that the files of a run folder are one network.

    The original is loaded and cut anew by the plan; the artifact's weights must be those of the
    cut network wherever the repair did not change them.

    Raises:
        ArtifactError: A file is missing, damaged or of another run.
    """
    folder = RunFolder(common.out)
    manifest = read(folder.manifest, ManifestFile)
    file = read(folder.plan, PlanFile)
    _check_hashes(folder, manifest)
    model = manifest.model.source()
    recorded = manifest.data.source() if manifest.data else None
    source = recorded if data is None else data
    named_code = model.runs_code or (data is None and recorded is not None and recorded.runs_code)
    _check_owner(folder.manifest, named_code, common)
    subject = prepare(model, source, replace(common, unpin_outputs=manifest.model.unpin_outputs))
    if not subject.model.sha256 == file.model_hash == manifest.model.sha256:
        raise ArtifactError(
            f"{model.spec} is not the network that was pruned: its weights or layers differ",
            hint="prune it again",
        )
    kept = plan_of(file, subject.graph).kept(subject.graph)
    smaller, reloaded = cut(subject.graph, kept), load_program(folder.program)
    return validate(
        reloaded,
        folder.onnx,
        cut=smaller,
        masked=mask_network(subject.graph, kept),
        data=_renumbered(subject, kept),
        provider=provider,
        extra=(same_weights(smaller, reloaded, changed=manifest.repair.changed),),
    )


def _check_hashes(folder: RunFolder, manifest: ManifestFile) -> None:
    found = folder.hashes()
    for name, expected in manifest.hashes.items():
        if name not in found:
            raise ArtifactError(f"{name} is missing from {folder.path}", hint="prune again")
        if found[name] != expected:
            raise ArtifactError(
                f"{folder.path / name} is not the file that manifest.json vouches for",
                hint="it was changed or comes from another run; prune again",
            )


def validate_files(
    program: Path, onnx: Path, data: DataSource | None, provider: str
) -> ValidationReport:
    """Prove that a ``.pt2`` and an ONNX file are one network.

    Raises:
        ArtifactError: A file is missing or damaged.
    """
    batches = None if data is None else load_data(data)
    return validate(load_program(program), onnx, data=batches, provider=provider)


# ---- shared -------------------------------------------------------------------------------------


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - start
