"""Compare: criteria side by side on one network, from and to the files of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graphprune.artifacts import (
    DataRecord,
    ManifestFile,
    PlanFile,
    RankingFile,
    RunFolder,
    plan_of,
    read,
)
from graphprune.comparison import (
    CompareFile,
    CompareFolder,
    CompareOptions,
    Comparison,
    Conditions,
    Images,
    Origin,
    Questions,
    run_comparison,
    settled,
    write_plots,
)
from graphprune.data import CalibrationBatches, DataSource, load_data
from graphprune.doctor import versions
from graphprune.drawing import draw
from graphprune.errors import ArtifactError, DataError, OptionError
from graphprune.figures import check_plots
from graphprune.game.evaluation import Running
from graphprune.load import ModelSource
from graphprune.pipeline.options import Common, chosen_device
from graphprune.pipeline.subject import Subject, check_data, data_record, prepare
from graphprune.report import write_report


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A comparison that has not begun.

    Args:
        subject: The network, and the data that rank.
        images: What ranks, repairs and judges.
        questions: What is asked.
        conditions: What every figure depends on.
        running: How and where networks are run.
        folder: Where everything is kept.
        plots: What plots are written as.
    """

    subject: Subject
    images: Images
    questions: Questions
    conditions: Conditions
    running: Running
    folder: CompareFolder
    plots: str


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison whose files are written.

    Args:
        found: The comparison.
        document: What ``compare.json`` holds.
        plots: The plots.
        notes: What the user should know of the run in the same folder.
    """

    found: Comparison
    document: CompareFile
    plots: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def prepare_comparison(
    model: ModelSource,
    data: DataSource | None,
    eval_data: DataSource | None,
    options: CompareOptions,
    common: Common,
    *,
    plots: str = "svg",
    resume: bool = False,
) -> Prepared:
    """Load everything and check what is asked; nothing is ranked or written.

    Args:
        model: The network.
        data: Images that rank and repair.
        eval_data: Images that judge; None lets a part of ``data`` judge.
        options: What is asked.
        common: What every command is told.
        plots: ``svg``, ``png`` or ``none``.
        resume: Go on with what the folder holds.

    Raises:
        GraphpruneError: See :func:`prepare` and :func:`graphprune.comparison.settled`.
    """
    check_plots(plots)
    if data is None:
        raise DataError(
            "a comparison needs images to rank and to judge on", hint="give some with --data"
        )
    subject = prepare(model, data, common)
    assert subject.data is not None
    assert subject.source is not None
    judging, record = _judging(eval_data, subject)
    running = Running(
        device=chosen_device(common.device),
        max_memory=common.max_memory,
        precision=common.precision,
    )
    images, questions, conditions = settled(subject.graph, subject.data, judging, options, running)
    origin = Origin(
        argv=common.argv,
        versions=versions(),
        model=subject.model,
        data=subject.source,
        eval_data=record,
    )
    return Prepared(
        subject=subject,
        images=images,
        questions=questions,
        conditions=conditions,
        running=running,
        folder=CompareFolder(path=common.out, origin=origin, resume=resume),
        plots=plots,
    )


def compare(prepared: Prepared, common: Common) -> Compared:
    """Rank, prune, repair and judge; writes ``compare.json``, the rankings and the plots.

    Where the folder holds a run of the same network, its report is drawn again to show all this.

    Raises:
        GraphpruneError: See :func:`graphprune.comparison.run_comparison`.
    """
    found = run_comparison(
        prepared.subject.graph,
        prepared.images,
        prepared.questions,
        prepared.conditions,
        running=prepared.running,
        store=prepared.folder,
        progress=common.progress,
    )
    return Compared(
        found=found,
        document=prepared.folder.document(found),
        plots=write_plots(found, prepared.folder.path / "plots", prepared.plots),
        notes=_redraw_report(RunFolder(common.out), prepared.subject),
    )


def _redraw_report(folder: RunFolder, subject: Subject) -> tuple[str, ...]:
    """Write a run's report again; no manifest vouches for that file, so all others may stay.

    Returns:
        Why it was not, if it was not.
    """
    if not folder.manifest.exists():
        return ()
    try:
        manifest, plan = read(folder.manifest, ManifestFile), read(folder.plan, PlanFile)
        if plan.model_hash != subject.model.sha256:
            return (f"{folder.report} stays as it is: it is of another network",)
        ranking, kept = read(folder.ranking, RankingFile), plan_of(plan, subject.graph).kept
        network = draw(subject.graph, kept(subject.graph))
        write_report(folder, manifest, plan, ranking, network=network)
    except (ArtifactError, OptionError) as error:
        return (f"{folder.report} stays as it is: {error.message}",)
    return ()


def _judging(
    source: DataSource | None, subject: Subject
) -> tuple[CalibrationBatches | None, DataRecord | None]:
    if source is None:
        return None, None
    batches = load_data(source)
    check_data(batches, subject.graph, subject.loaded)
    return batches, data_record(source, batches)
