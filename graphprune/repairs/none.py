"""No repair: the network as it was cut."""

from __future__ import annotations

from graphprune.repairs.registry import RepairJob, register


@register("none", needs_data=False)
def keep(job: RepairJob) -> tuple[str, ...]:
    """Change nothing."""
    del job
    return ()
