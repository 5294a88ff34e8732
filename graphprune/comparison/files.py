"""The files of a comparison: ``compare.json`` and, beside it, every ranking.

``compare.json`` is written again after every row, whole or not at all. It says what it was made
from, so a comparison that goes on, with more criteria, seeds or ratios, keeps the rows it has.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from graphprune.artifacts import (
    STRICT,
    DataRecord,
    ModelRecord,
    RankingFile,
    ranking_file,
    ranking_of,
    read,
    write,
)
from graphprune.comparison.oracle import SetsOfUnits
from graphprune.comparison.questions import Conditions
from graphprune.comparison.records import (
    Cell,
    Comparison,
    OracleRow,
    RobustnessRow,
    Summary,
    Trial,
)
from graphprune.errors import ArtifactError
from graphprune.fidelity import Fidelity
from graphprune.files import sha256_of
from graphprune.graph import DependencyGraph
from graphprune.ranking import Ranking


class CompareFile(BaseModel):
    """``compare.json``."""

    model_config = STRICT

    format: Literal["graphprune/compare/1"] = "graphprune/compare/1"
    complete: bool
    argv: tuple[str, ...]
    versions: dict[str, str]
    model: ModelRecord
    data: DataRecord
    eval_data: DataRecord | None
    conditions: Conditions
    unpruned: Fidelity
    notes: tuple[str, ...]
    summary: tuple[Summary, ...]
    cells: tuple[Cell, ...]
    trials: tuple[Trial, ...]
    robustness: tuple[RobustnessRow, ...]
    sets: tuple[SetsOfUnits, ...]
    oracle: tuple[OracleRow, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a comparison is made from.

    Args:
        argv: The command as typed.
        versions: Of every package that results depend on.
        model: Where the network came from.
        data: Where the images came from that rank and repair.
        eval_data: Where those came from that judge; None where a part of ``data`` does.
    """

    argv: tuple[str, ...]
    versions: dict[str, str]
    model: ModelRecord
    data: DataRecord
    eval_data: DataRecord | None


@dataclass(frozen=True, kw_only=True)
class CompareFolder:
    """The folder of a comparison; a :class:`graphprune.comparison.keeping.Store`.

    Args:
        path: The folder.
        origin: What the comparison is made from.
        resume: Go on with what the folder holds; else it is replaced.
    """

    path: Path
    origin: Origin
    resume: bool = False

    @property
    def file(self) -> Path:
        """``compare.json``."""
        return self.path / "compare.json"

    def begin(self, fresh: Comparison) -> Comparison:
        """Return what the folder holds, if that is to go on; else begin the file.

        Raises:
            ArtifactError: It holds another comparison, or is damaged.
        """
        if not (self.resume and self.file.exists()):
            self.save(fresh)
            return fresh
        file = read(self.file, CompareFile)
        self._check(file, fresh)
        return replace(comparison_of(file), complete=False)

    def save(self, found: Comparison) -> None:
        """Write ``compare.json``."""
        write(self.file, self.document(found))

    def document(self, found: Comparison) -> CompareFile:
        """Return what ``compare.json`` holds."""
        return CompareFile(
            complete=found.complete,
            argv=self.origin.argv,
            versions=self.origin.versions,
            model=self.origin.model,
            data=self.origin.data,
            eval_data=self.origin.eval_data,
            conditions=found.conditions,
            unpruned=found.unpruned,
            notes=found.notes,
            summary=found.summary,
            cells=found.cells,
            trials=found.trials,
            robustness=found.robustness,
            sets=found.sets,
            oracle=found.oracle,
        )

    def keep(self, trial: Trial, ranking: Ranking) -> Trial:
        """Write a ranking, which ``prune --ranking`` takes."""
        path = self._place(trial)
        write(path, ranking_file(ranking, self.origin.model, self.origin.data))
        return replace(trial, ranking=path.name, sha256=sha256_of(path))

    def ranking(self, trial: Trial, graph: DependencyGraph) -> Ranking | None:
        """Read a ranking; None if it is not the one that was written."""
        path = self._place(trial)
        if not path.is_file() or sha256_of(path) != trial.sha256:
            return None
        return ranking_of(read(path, RankingFile), graph)

    def _place(self, trial: Trial) -> Path:
        return self.path / "rankings" / f"{_file_name(trial.criterion)}-seed{trial.seed}.json"

    def _check(self, file: CompareFile, fresh: Comparison) -> None:
        for what, before, now in (
            ("the model", file.model.sha256, self.origin.model.sha256),
            ("the data", file.data.sha256, self.origin.data.sha256),
            ("the data that judge", _hash(file.eval_data), _hash(self.origin.eval_data)),
        ):
            if before != now:
                raise self._other(f"{what} changed since")
        asked = asdict(fresh.conditions)
        for name, before in asdict(file.conditions).items():
            if before != asked[name]:
                raise self._other(f"{name} was {before} and is {asked[name]}")

    def _other(self, difference: str) -> ArtifactError:
        return ArtifactError(
            f"{self.file} cannot go on: {difference}",
            hint="use what the earlier run used, or start anew, without --resume",
        )


def comparison_of(file: CompareFile) -> Comparison:
    """Return the comparison that a file describes."""
    return Comparison(
        conditions=file.conditions,
        unpruned=file.unpruned,
        trials=file.trials,
        cells=file.cells,
        robustness=file.robustness,
        sets=file.sets,
        oracle=file.oracle,
        notes=file.notes,
        complete=file.complete,
    )


def _hash(record: DataRecord | None) -> str:
    return "" if record is None else record.sha256


def _file_name(label: str) -> str:
    """Return a label as a file's name; one that has to change gets a part of its hash."""
    plain = re.sub(r"[^\w.=@-]", "_", label).strip(".")
    if plain == label:
        return label
    return f"{plain[-60:]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
