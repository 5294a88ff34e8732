"""Records for the manifest of how a plan was found."""

from __future__ import annotations

from graphprune.artifacts import (
    CandidateRecord,
    ChoiceRecord,
    ExchangeRecord,
    FidelityRecord,
    StepRecord,
    WeighingRecord,
    WeightRecord,
)
from graphprune.candidates import Candidate, Choice
from graphprune.exchanging import Exchanged
from graphprune.fidelity import Fidelity
from graphprune.steps import Step
from graphprune.weighing import Weighed


def step_record(step: Step) -> StepRecord:
    """Describe a step."""
    return StepRecord(asked=step.asked, reached=step.reached, units=step.units)


def weighing_record(found: Weighed | None) -> WeighingRecord | None:
    """Describe how far scores look ahead."""
    if found is None:
        return None
    return WeighingRecord(
        n_images=found.n_images,
        tried=tuple(
            WeightRecord(refit=each.share.refit, kl=each.divergence, greedy=each.share.greedy)
            for each in found.tried
        ),
    )


def exchange_record(found: Exchanged | None) -> ExchangeRecord | None:
    """Describe how units traded places."""
    if found is None:
        return None
    return ExchangeRecord(
        value=found.value,
        before=found.before,
        after=found.after,
        evaluations=found.evaluations,
        n_images=found.n_images,
    )


def choice_record(choice: Choice | None) -> ChoiceRecord | None:
    """Describe a choice."""
    if choice is None:
        return None
    return ChoiceRecord(
        n_images=choice.n_images, candidates=tuple(map(_candidate_record, choice.candidates))
    )


def _candidate_record(candidate: Candidate) -> CandidateRecord:
    return CandidateRecord(
        criterion=candidate.criterion,
        reached=candidate.stepped.plan.reached,
        fidelity=fidelity_record(candidate.fidelity),
    )


def fidelity_record(found: Fidelity) -> FidelityRecord:
    """Describe a fidelity."""
    return FidelityRecord(kl=found.kl, kl_stderr=found.kl_stderr, agreement=found.agreement)
