"""Prune: cut, repair, export and validate what was planned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from graphprune.artifacts import (
    HeldOutRecord,
    LayerGainRecord,
    ManifestFile,
    RepairRecord,
    RunFolder,
    plan_file,
    ranking_file,
    write,
)
from graphprune.building import repaired as repaired_network
from graphprune.data import DataSource
from graphprune.doctor import versions
from graphprune.drawing import draw
from graphprune.export import export_onnx, load_program, program_of, save_program
from graphprune.files import sha256_of
from graphprune.latency import Bench, bench
from graphprune.load import ModelSource
from graphprune.pipeline.holding import holding
from graphprune.pipeline.judging import Judged, judge_cut, judge_repaired
from graphprune.pipeline.measuring import latency_record
from graphprune.pipeline.noting import plan_notes
from graphprune.pipeline.options import Common, PruneOptions, RankOptions
from graphprune.pipeline.planning import Selected, plan_run, repairing
from graphprune.pipeline.recording import (
    choice_record,
    exchange_record,
    step_record,
    weighing_record,
)
from graphprune.pipeline.subject import Subject, renumbered
from graphprune.pipeline.timing import timed
from graphprune.pipeline.validation import (
    drop_divergence,
    planned_shapes,
    save_divergence,
    validation_record,
)
from graphprune.progress import Progress
from graphprune.releasing import give_up_weights, release, size_of
from graphprune.repairs import RepairResult
from graphprune.report import write_report, write_run_plots
from graphprune.selection import PruningPlan
from graphprune.staging import commit
from graphprune.surgery import cut
from graphprune.verify import Background, ValidationReport, check_masked, validate


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A pruned network whose files are written, with the paths of its ``plots``."""

    subject: Subject
    plan: PruningPlan
    manifest: ManifestFile
    report: ValidationReport
    folder: RunFolder
    plots: tuple[Path, ...] = ()


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
    with holding(common):
        return carry_out(plan_run(model, data, rank_options, options, common), options, common)


def carry_out(selected: Selected, options: PruneOptions, common: Common) -> Pruned:
    """Cut, repair, export and validate what was selected, in a folder that is held.

    The files of the run replace those of the run before all at once, at the very end. The traced
    network gives up its weights on the way. What is told of the network as it was cut is found out
    before it is repaired, so that a large one is not held a third time.
    """
    subject, plan, folder = selected.subject, selected.plan, RunFolder(common.out).staging
    kept = plan.kept(subject.graph)
    stages = _Stages(subject.timings, common.progress)
    size = size_of(subject.graph.program.module)
    release(size)
    with stages.next("prune"):
        smaller = cut(subject.graph, kept)
        release(size)  # cutting leaves as much behind as its largest weight takes
        masked = check_masked(subject.graph, kept, smaller)
        as_cut = judge_cut(subject, kept, smaller)
        release(size)
    with stages.next("repair"):
        repairs = repairing(options, common)
        repaired = repaired_network(subject.graph, kept, smaller, subject.data, repairs)
        release(size)
    with stages.next("judge"):
        verdict = judge_repaired(as_cut, repaired)
        give_up_weights(subject.graph.program.module)
        release(size)
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
    release(size)
    with stages.next("validate"):
        report = validate(
            repaired.model,
            folder.onnx,
            reloaded=partial(load_program, folder.program),
            data=renumbered(subject, kept),
            extra=(masked,),
            background=Background(graph=subject.graph, planned=planned_shapes(subject.graph, plan)),
        )
    latency = None
    if selected.latency is not None:
        with stages.next("measure"):
            timing = options.latency.bench
            latency = bench([folder.original, folder.onnx], timing, common.progress)
    network = draw(subject.graph, kept)
    manifest = _manifest(selected, repaired, verdict, report, latency, options, common).sealed()
    write(folder.manifest, manifest)
    run = RunFolder(common.out)
    write_report(run, manifest, plan_record, ranking_record, network=network, path=folder.report)
    commit(run.path, run.replaced)
    drop_divergence(report, common)
    if selected.store is not None:
        selected.store.clear()
    plots = write_run_plots(plan_record, ranking_record, network, run.plots, options.plots)
    return Pruned(
        subject=subject, plan=plan, manifest=manifest, report=report, folder=run, plots=plots
    )


class _Stages:
    """Times the stages of :func:`carry_out` and tells how far they are."""

    _names = ("prune", "repair", "judge", "save", "export", "validate", "measure")

    def __init__(self, timings: dict[str, float], progress: Progress) -> None:
        self._timings = timings
        self._progress = progress

    @contextmanager
    def next(self, stage: str) -> Iterator[None]:
        """Run one stage."""
        place, total = self._names.index(stage), len(self._names)
        self._progress(stage, place, total)
        with timed(self._timings, stage):
            yield
        self._progress(stage, place + 1, total)


def _manifest(
    selected: Selected,
    repaired: RepairResult,
    verdict: Judged,
    report: ValidationReport,
    latency: Bench | None,
    options: PruneOptions,
    common: Common,
) -> ManifestFile:
    subject = selected.subject
    return ManifestFile(
        argv=common.argv,
        versions=versions(),
        seed=common.seed,
        model=subject.model,
        data=subject.source,
        hashes=RunFolder(common.out).staging.hashes(),
        timings={stage: round(seconds, 3) for stage, seconds in subject.timings.items()},
        repair=_repair_record(repaired),
        accuracy=verdict.accuracy,
        latency=None if latency is None else latency_record(latency),
        validation=validation_record(report, save_divergence(report, common)),
        notes=(*subject.notes, *plan_notes(selected, options)),
        steps=tuple(map(step_record, selected.steps)),
        candidates=choice_record(selected.choice),
        weighing=weighing_record(selected.weighed),
        exchange=exchange_record(selected.exchanged),
        fidelity=verdict.fidelity,
    )


def _repair_record(repaired: RepairResult) -> RepairRecord:
    before, after = repaired.before, repaired.after
    return RepairRecord(
        method=repaired.method,
        changed=repaired.changed,
        notes=repaired.notes,
        held_out=None
        if before is None or after is None
        else HeldOutRecord(
            n_images=after.n_images,
            before=before.kl,
            after=after.kl,
        ),
        layers=tuple(
            LayerGainRecord(
                layer=gain.layer, before=gain.before, after=gain.after, ridge=gain.ridge
            )
            for gain in repaired.layers
        ),
    )
