"""Validate: prove again that the files of a run are one network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from graphprune.artifacts import (
    CheckRecord,
    ManifestFile,
    PlanFile,
    RunFolder,
    ValidationRecord,
    plan_of,
    read,
)
from graphprune.data import DataSource, load_data
from graphprune.errors import ArtifactError
from graphprune.export import load_program
from graphprune.game.masking import mask_network
from graphprune.pipeline.options import Common
from graphprune.pipeline.subject import check_owner, prepare, renumbered
from graphprune.surgery import cut
from graphprune.verify import ValidationReport, same_weights, validate


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
    check_owner(folder.manifest, named_code, common)
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
        data=renumbered(subject, kept),
        provider=provider,
        extra=(same_weights(smaller, reloaded, changed=manifest.repair.changed),),
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
