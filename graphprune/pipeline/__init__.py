"""The pipeline as commands run it: each stage from and to the files of a run folder.

One stage a file: what commands are told (``options``), the folder they write into (``holding``),
the network and its data (``subject``), then ``inspection``, ``ranking``, ``aiming``, ``planning``,
``noting``, ``pruning``, ``judging``, ``validation`` and ``comparing``.
"""

from graphprune.latency_target import LatencyOptions
from graphprune.pipeline.comparing import Compared, Prepared, compare, prepare_comparison
from graphprune.pipeline.holding import holding
from graphprune.pipeline.inspection import Inspection, inspect
from graphprune.pipeline.noting import plan_notes
from graphprune.pipeline.options import (
    DEVICES,
    Common,
    PruneOptions,
    RankOptions,
    ValidateOptions,
    chosen_device,
)
from graphprune.pipeline.planning import Selected, plan_run
from graphprune.pipeline.pruning import Pruned, carry_out, prune
from graphprune.pipeline.ranking import Ranked, left_alone, rank, rank_subject
from graphprune.pipeline.recording import (
    choice_record,
    exchange_record,
    step_record,
    weighing_record,
)
from graphprune.pipeline.subject import Subject, prepare
from graphprune.pipeline.validation import (
    drop_divergence,
    save_divergence,
    validate_files,
    validate_run,
    validation_record,
)

__all__ = [
    "DEVICES",
    "Common",
    "Compared",
    "Inspection",
    "LatencyOptions",
    "Prepared",
    "PruneOptions",
    "Pruned",
    "RankOptions",
    "Ranked",
    "Selected",
    "Subject",
    "ValidateOptions",
    "carry_out",
    "choice_record",
    "chosen_device",
    "compare",
    "drop_divergence",
    "exchange_record",
    "holding",
    "inspect",
    "left_alone",
    "plan_notes",
    "plan_run",
    "prepare",
    "prepare_comparison",
    "prune",
    "rank",
    "rank_subject",
    "save_divergence",
    "step_record",
    "validate_files",
    "validate_run",
    "validation_record",
    "weighing_record",
]
