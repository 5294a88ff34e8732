"""The repair that is taken unless another is asked for: whichever serves held-out images best."""

from __future__ import annotations

import copy
from dataclasses import replace

from graphprune.repairs.batchnorm import has_statistics, reestimate
from graphprune.repairs.least_squares import least_squares
from graphprune.repairs.registry import Outcome, RepairJob, register, reset
from graphprune.tracing import named_tensors


@register("auto", guarded=True)
def auto(job: RepairJob) -> Outcome:
    """Least squares, or batch norm statistics where they come nearer to the unpruned network."""
    other = copy.deepcopy(job.model) if has_statistics(job.model) else None
    refitted = replace(least_squares(job), method="least-squares")
    if job.judge is None or other is None:
        return refitted
    reestimated = reestimate(replace(job, model=other))
    ours, theirs = (job.judge.judge(model, job.source.kept).kl for model in (job.model, other))
    if ours <= theirs:
        return refitted
    reset(job.model, named_tensors(other).items())
    reason = (
        "batch norm statistics come nearer to the unpruned network on held-out images than least "
        f"squares (a divergence of {theirs:.4g} against {ours:.4g})"
    )
    return replace(reestimated, method="batchnorm", reason=reason)
