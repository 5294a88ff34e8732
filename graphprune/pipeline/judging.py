"""Judge: how faithful a pruned network is, before and after its repair, for the manifest."""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.artifacts import AccuracyRecord, FaithfulnessRecord
from graphprune.errors import DataError
from graphprune.fidelity import Judge, judge_of
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


def judged(subject: Subject, kept: Kept, smaller: PrunedModel, repaired: RepairResult) -> Judged:
    """Compare a network as it was cut, and as it was repaired, with the unpruned one."""
    judge = _judge(subject)
    if judge is None:
        return Judged()
    before, cut = judge.unpruned(), judge.judge(smaller, kept)
    after = judge.judge(repaired.model, kept) if repaired.changed else cut
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
