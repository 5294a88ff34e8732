"""Prune: cut, repair, export and validate what was planned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphprune.artifacts import (
    AccuracyRecord,
    ManifestFile,
    RepairRecord,
    RunFolder,
    plan_file,
    ranking_file,
    write,
)
from graphprune.data import CalibrationBatches, DataSource
from graphprune.doctor import versions
from graphprune.export import export_onnx, load_program, program_of, save_program
from graphprune.files import sha256_of
from graphprune.game.masking import mask_network
from graphprune.game.value import class_logits
from graphprune.load import ModelSource
from graphprune.pipeline.options import Common, PruneOptions, RankOptions
from graphprune.pipeline.planning import Selected, plan_run
from graphprune.pipeline.subject import Subject, renumbered
from graphprune.pipeline.timing import timed
from graphprune.pipeline.validation import validation_record
from graphprune.progress import Progress
from graphprune.repairs import RepairResult, repair
from graphprune.report import write_report
from graphprune.selection import PruningPlan
from graphprune.surgery import PrunedModel, cut
from graphprune.tracing import named_tensors
from graphprune.verify import ValidationReport, validate


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A pruned network whose files are written."""

    subject: Subject
    plan: PruningPlan
    manifest: ManifestFile
    report: ValidationReport
    folder: RunFolder


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
            data=renumbered(subject, kept),
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
        with timed(self._timings, stage):
            yield
        self._progress(stage, place + 1, total)


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


def _accuracies(selected: Selected, pruned: nn.Module) -> AccuracyRecord | None:
    subject = selected.subject
    data = renumbered(subject, selected.plan.kept(subject.graph))
    if subject.data is None or data is None or not subject.data.has_labels:
        return None
    return AccuracyRecord(
        n_images=subject.data.n_images,
        before=accuracy(subject.graph.program.module, subject.data),
        after=accuracy(pruned, data),
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
