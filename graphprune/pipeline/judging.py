"""Judge: how faithful a pruned network is, before and after its repair, for the manifest."""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.artifacts import AccuracyRecord, FaithfulnessRecord
from graphprune.errors import DataError
from graphprune.fidelity import Fidelity, Judge, judge_of
from graphprune.graph import Kept
from graphprune.pipeline.recording import fidelity_record
from graphprune.pipeline.subject import Subject
from graphprune.repairs import RepairResult
from graphprune.surgery import PrunedModel


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What calibration images say.

    Args:
        accuracy: Share of images that are right; None without labels or without predictions.
        fidelity: How near predictions are to the unpruned network's; None without images or
            predictions.
    """

    accuracy: AccuracyRecord | None = None
    fidelity: FaithfulnessRecord | None = None


@dataclass(frozen=True, kw_only=True)
class AsCut:
    """What calibration images say of a network as it was cut.

    Args:
        judge: Knows the images.
        kept: For every unit whether it is kept.
        fidelity: How near predictions are to the unpruned network's.
    """

    judge: Judge
    kept: Kept
    fidelity: Fidelity


def judge_cut(subject: Subject, kept: Kept, smaller: PrunedModel) -> AsCut | None:
    """Compare a network as it was cut with the unpruned one; None if that cannot be done."""
    judge = _judge(subject)
    if judge is None:
        return None
    return AsCut(judge=judge, kept=kept, fidelity=judge.judge(smaller, kept))


def judge_repaired(as_cut: AsCut | None, repaired: RepairResult) -> Judged:
    """Compare the network with the unpruned one as it was repaired, too."""
    if as_cut is None:
        return Judged()
    judge, cut = as_cut.judge, as_cut.fidelity
    before = judge.unpruned()
    after = judge.judge(repaired.model, as_cut.kept) if repaired.changed else cut
    fidelity = FaithfulnessRecord(
        n_images=after.n_images, cut=fidelity_record(cut), repaired=fidelity_record(after)
    )
    if before.accuracy is None or after.accuracy is None:
        return Judged(fidelity=fidelity)
    accuracy = AccuracyRecord(n_images=after.n_images, before=before.accuracy, after=after.accuracy)
    return Judged(accuracy=accuracy, fidelity=fidelity)


def _judge(subject: Subject) -> Judge | None:
    """Return a judge on the calibration images; None if the network's outputs are no predictions.

    Weights of such a network can be ranked and cut all the same.
    """
    if subject.data is None:
        return None
    try:
        return judge_of(subject.graph, subject.data)
    except DataError:
        return None
