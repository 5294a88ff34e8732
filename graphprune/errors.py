"""Every error that graphprune raises on purpose, in one tree.

::

    GraphpruneError
    ├── InputError            what the user gave cannot be used              exit 2
    │   ├── ModelError        a model cannot be read, built or run
    │   │   └── TrustError    reading it would run code that nobody vouched for
    │   ├── DataError         calibration data is missing, malformed or does not fit
    │   ├── OptionError       an option's value is not allowed
    │   └── ArtifactError     a file of a run is missing, damaged or of another run
    ├── TraceError            the network cannot be turned into a graph      exit 2
    ├── SurgeryError          the graph and a plan do not fit together       exit 2
    ├── RankLostError         a process of several is gone; resumable        exit 130
    └── Finding               the work was done and the answer is "no"       exit 1
        ├── BudgetError       the budget asked for cannot be reached
        └── ValidationError   two forms of the network differ

Each message says what arrived, what is allowed and what to do next.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "BudgetError",
    "DataError",
    "Finding",
    "GraphpruneError",
    "InputError",
    "ModelError",
    "OptionError",
    "RankLostError",
    "SurgeryError",
    "TraceError",
    "TrustError",
    "ValidationError",
]


class GraphpruneError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What arrived and what is allowed, in one sentence.
        hint: What to do next; printed on a line of its own.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class InputError(GraphpruneError):
    """What the user gave cannot be used."""


class ModelError(InputError):
    """A model cannot be read, built or run on its inputs."""


class TrustError(ModelError):
    """Reading a file would run code that nobody vouched for."""


class DataError(InputError):
    """Calibration data is missing, malformed or does not fit the model."""


class OptionError(InputError):
    """An option's value is not one of those allowed."""


class ArtifactError(InputError):
    """A file of a run is missing, damaged or belongs to another run."""


class TraceError(GraphpruneError):
    """The network cannot be turned into an ATen graph."""


class SurgeryError(GraphpruneError):
    """A plan does not fit the graph it is applied to."""


class RankLostError(GraphpruneError):
    """One of the processes that work together is gone; what they found can be taken up."""

    exit_code = 130


class Finding(GraphpruneError):
    """The work was done and its answer is "no"."""

    exit_code = 1


class BudgetError(Finding):
    """The budget asked for cannot be reached."""


class ValidationError(Finding):
    """Two forms of one network compute different functions."""


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return an error's type and the first line of its message, at most ``limit`` characters."""
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text.strip()[:limit]}"
