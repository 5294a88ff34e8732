"""Validate: prove again that the files of a run are one network, or that any two files are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torch import nn

from graphprune.artifacts import (
    CheckRecord,
    DivergenceRecord,
    ManifestFile,
    PlanFile,
    RunFolder,
    ValidationRecord,
    plan_of,
    read,
)
from graphprune.data import DataSource, load_data
from graphprune.errors import ArtifactError, ModelError, TraceError
from graphprune.export import load_program
from graphprune.graph import DependencyGraph, trace
from graphprune.load import LoadedModel, ModelSource, load_model
from graphprune.load.source import SpecKind
from graphprune.pipeline.holding import settle
from graphprune.pipeline.options import Common, ValidateOptions
from graphprune.pipeline.subject import check_owner, prepare, renumbered
from graphprune.releasing import give_up_weights, release, size_of
from graphprune.selection import PruningPlan
from graphprune.surgery import cut
from graphprune.tracing import named_tensors
from graphprune.verify import (
    Background,
    Divergence,
    ValidationReport,
    check_masked,
    drop_witness,
    same_weights,
    save_witness,
    validate,
)
from graphprune.verify.contents import read_onnx
from graphprune.verify.declared import DeclaredInput, declared_inputs


def validate_run(
    data: DataSource | None, options: ValidateOptions, common: Common
) -> ValidationReport:
    """Prove again that the files of a run folder are one network.

    The original is loaded and cut anew by the plan; the artifact's weights must be those of the
    cut network wherever the repair did not change them.

    Raises:
        ArtifactError: A file is missing, damaged or of another run.
    """
    folder = RunFolder(common.out)
    settle(folder)
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
    plan = plan_of(file, subject.graph)
    kept = plan.kept(subject.graph)
    smaller = cut(subject.graph, kept)
    size = size_of(subject.graph.program.module)
    release(size)  # cutting leaves as much behind as its largest weight takes
    masked = check_masked(subject.graph, kept, smaller, options.settings)
    # That is the last that the original's weights are needed for.
    give_up_weights(subject.graph.program.module)
    release(size)
    reloaded = load_program(folder.program)
    same = same_weights(smaller, reloaded, changed=manifest.repair.changed)
    del smaller
    release(size)
    return validate(
        reloaded,
        folder.onnx,
        data=renumbered(subject, kept),
        provider=options.provider,
        settings=options.settings,
        extra=(masked, same),
        background=Background(graph=subject.graph, planned=planned_shapes(subject.graph, plan)),
    )


def validate_files(
    model: ModelSource,
    onnx: Path,
    data: DataSource | None,
    options: ValidateOptions,
    common: Common,
) -> ValidationReport:
    """Prove that a network and an ONNX file are one function.

    Args:
        model: An exported program, such as ``pruned.pt2``, or any other network. Shapes of its
            inputs that were not given are those that the file declares.
        onnx: The file, whoever made it.
        data: Images on which predictions are compared as well.
        options: Provider, batches, seeds and tolerances.
        common: Whether code may run.

    Raises:
        ArtifactError: The ONNX file is missing or damaged.
        ModelError: The network is missing, damaged, or does not run.
    """
    batches = None if data is None else load_data(data)
    network, background = _network(model, onnx, common)
    return validate(
        network,
        onnx,
        data=batches,
        provider=options.provider,
        settings=options.settings,
        background=background,
    )


def planned_shapes(graph: DependencyGraph, plan: PruningPlan) -> dict[str, tuple[int, ...]]:
    """Return what is left of every tensor that a plan cuts: its shape less what is removed."""
    tensors = named_tensors(graph.program.module)
    return {
        name: tuple(size - len(by_dim.get(dim, ())) for dim, size in enumerate(tensors[name].shape))
        for name, by_dim in plan.removed.items()
    }


def _network(model: ModelSource, onnx: Path, common: Common) -> tuple[nn.Module, Background]:
    if model.kind is SpecKind.EXPORTED and model.weights is None and not model.input_shapes:
        return load_program(model.spec, trust=common.trust), Background()
    loaded = _loaded(model, declared_inputs(read_onnx(onnx)), common)
    graph = None
    with suppress(TraceError):  # no group can be named then; it can be compared all the same
        graph = trace(loaded.module, loaded.example_inputs)
    return loaded.module, Background(example_inputs=loaded.example_inputs, graph=graph)


def _loaded(model: ModelSource, declared: Sequence[DeclaredInput], common: Common) -> LoadedModel:
    shapes = tuple(value.shape for value in declared if value.shape is not None)
    if not model.input_shapes and shapes and len(shapes) == len(declared):
        # A network that does not take them is loaded on its own; that the inputs differ is a
        # finding, and no reason to stop.
        with suppress(ModelError):
            return load_model(replace(model, input_shapes=shapes), trust=common.trust)
    return load_model(model, trust=common.trust)


def validation_record(report: ValidationReport, witnesses: Sequence[Path] = ()) -> ValidationRecord:
    """Describe a validation.

    Args:
        report: The validation.
        witnesses: What :func:`save_divergence` wrote.
    """
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
                mean_abs=check.mean_abs,
                mean_rel=check.mean_rel,
                p99_abs=check.p99_abs,
                p99_rel=check.p99_rel,
                cosine=check.cosine,
            )
            for check in report.checks
        ),
        divergence=_divergence_record(report.divergence, witnesses),
    )


def save_divergence(report: ValidationReport, common: Common) -> tuple[Path, ...]:
    """Write what shows where a file parts from its network; returns no files if there is nothing.

    Raises:
        ArtifactError: The folder cannot be written to.
    """
    if report.divergence is None or common.dry_run:
        return ()
    return save_witness(report.divergence, RunFolder(common.out).divergence)


def drop_divergence(report: ValidationReport, common: Common) -> None:
    """Remove what an earlier validation of this folder wrote if nothing diverges any more."""
    if report.divergence is None and not common.dry_run:
        drop_witness(RunFolder(common.out).divergence)


def _divergence_record(
    divergence: Divergence | None, witnesses: Sequence[Path]
) -> DivergenceRecord | None:
    if divergence is None:
        return None
    return DivergenceRecord(
        case=divergence.case,
        node=divergence.node,
        op=divergence.op,
        value=divergence.value,
        error=divergence.error,
        module=divergence.module,
        source=divergence.source,
        weights=divergence.weights,
        groups=divergence.groups,
        files=tuple(map(str, witnesses)),
    )


def _check_hashes(folder: RunFolder, manifest: ManifestFile) -> None:
    if not manifest.is_whole:
        raise ArtifactError(
            f"{folder.manifest} was changed: it does not hold what its sha256 says",
            hint="prune again",
        )
    found = folder.hashes()
    for name, expected in manifest.hashes.items():
        if name not in found:
            raise ArtifactError(f"{name} is missing from {folder.path}", hint="prune again")
        if found[name] != expected:
            raise ArtifactError(
                f"{folder.path / name} is not the file that manifest.json vouches for",
                hint="it was changed or comes from another run; prune again, or give "
                "`graphprune validate` the .pt2 and the .onnx file to see where they differ",
            )
