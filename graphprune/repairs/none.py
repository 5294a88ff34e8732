"""No repair: the network as it was cut."""

from __future__ import annotations

from graphprune.repairs.registry import Outcome, RepairJob, register


@register("none", needs_data=False)
def keep(job: RepairJob) -> Outcome:
    """Change nothing."""
    del job
    return Outcome()
