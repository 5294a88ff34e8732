"""Verify: prove, number by number, that several forms of one network compute the same function."""

from graphprune.verify.cases import Settings
from graphprune.verify.locating import drop_witness, save_witness
from graphprune.verify.precision import as_double
from graphprune.verify.report import Check, Divergence, ValidationReport, raise_for
from graphprune.verify.tolerances import Tolerance
from graphprune.verify.validation import THOROUGH, Background, check_masked, validate
from graphprune.verify.weights import same_weights

__all__ = [
    "THOROUGH",
    "Background",
    "Check",
    "Divergence",
    "Settings",
    "Tolerance",
    "ValidationReport",
    "as_double",
    "check_masked",
    "drop_witness",
    "raise_for",
    "same_weights",
    "save_witness",
    "validate",
]
