"""What is worked on: a network, loaded and traced, with its calibration data."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from graphprune.artifacts import DataRecord, ModelRecord, RankingFile
from graphprune.coalition import stays
from graphprune.data import CalibrationBatches, DataSource, check_against, load_data
from graphprune.errors import ArtifactError, ModelError, OptionError, TrustError
from graphprune.game.evaluation import class_units
from graphprune.game.value import class_logits
from graphprune.graph import DependencyGraph, Kept, trace
from graphprune.load import LoadedModel, ModelSource, load_model
from graphprune.pipeline.options import Common
from graphprune.pipeline.timing import timed
from graphprune.releasing import release, size_of


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A loaded and traced network with its calibration data.

    Args:
        loaded: The network as loaded, its module as traced.
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


def prepare(model: ModelSource, data: DataSource | None, common: Common) -> Subject:
    """Load a network and its data, check that they fit, and trace the network.

    Raises:
        InputError: Something cannot be read or does not fit.
        TraceError: The network cannot be traced.
    """
    timings: dict[str, float] = {}
    with timed(timings, "load"):
        batches = None if data is None else load_data(data)
        shape = batches.input_shapes[0] if batches is not None else None
        loaded = load_model(model, trust=common.trust, data_shape=shape)
    with timed(timings, "trace"):
        graph = trace(loaded.module, loaded.example_inputs, unpin_outputs=common.unpin_outputs)
        # All that follows works on the trace, which has weights of its own.
        loaded = replace(loaded, module=graph.program.module)
    release(size_of(graph.program.module))
    if batches is not None:
        check_data(batches, graph, loaded)
    return Subject(
        loaded=loaded,
        graph=graph,
        data=batches,
        model=_model_record(loaded, common),
        source=None if data is None or batches is None else data_record(data, batches),
        timings=timings,
    )


def check_data(batches: CalibrationBatches, graph: DependencyGraph, loaded: LoadedModel) -> None:
    """Check that a network can be evaluated on data.

    Raises:
        DataError: An input has another shape, or a label is out of range.
    """
    n_classes = _n_classes(graph) if batches.has_labels else None
    check_against(batches, n_classes, loaded.source.input_shapes)


def recorded_subject(
    path: Path,
    file: RankingFile,
    model: ModelSource | None,
    data: DataSource | None,
    common: Common,
) -> Subject:
    """Load the network and data that a ranking was made of, unless others are given."""
    if model is None:
        model = file.model.source()
        check_owner(path, model.runs_code, common)
    if data is None and file.data is not None:
        data = file.data.source()
        check_owner(path, data.runs_code, common)
    subject = prepare(model, data, _as_ranked(file, common))
    if subject.model.sha256 != file.model_hash:
        raise ArtifactError(
            f"{model.spec} is not the network that was ranked: its weights or layers differ",
            hint="rank it again",
        )
    return subject


def check_owner(path: Path, runs_code: bool, common: Common) -> None:
    """Run code that a file names, and not the user, only if the file is the user's own."""
    if not runs_code or common.trust or platform.system() == "Windows":
        return
    if path.stat().st_uid != os.getuid():
        raise TrustError(
            f"{path} belongs to another user and names code to run",
            hint="name MODEL and --data yourself, or pass --trust",
        )


def renumbered(subject: Subject, kept: Kept) -> CalibrationBatches | None:
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


def data_record(source: DataSource, batches: CalibrationBatches) -> DataRecord:
    """Describe where data came from."""
    return DataRecord(
        spec=source.spec,
        mean=source.mean,
        std=source.std,
        resize=source.resize,
        limit=source.limit,
        sha256=batches.sha256,
        folder=str(Path.cwd()),
    )


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
