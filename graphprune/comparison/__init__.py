"""Comparison: criteria side by side, judged on images that ranked nothing.

Who takes part (``contestants``), what ranks and what judges (``images``), what is asked
(``questions``) and found (``records``), the work (``running``) with what it measures
(``measuring``, ``robustness``, ``oracle``), and where all of it is kept (``keeping``, ``files``)
and drawn (``plots``).
"""

from graphprune.comparison.contestants import Contestant, contestants
from graphprune.comparison.files import CompareFile, CompareFolder, Origin, comparison_of
from graphprune.comparison.images import Images, arrange
from graphprune.comparison.oracle import SETS, Oracle, OracleRank, SetsOfUnits, oracle_groups
from graphprune.comparison.questions import (
    CRITERIA,
    RATIOS,
    REPAIRS,
    SEEDS,
    CompareOptions,
    Conditions,
    Questions,
)
from graphprune.comparison.records import Cell, Comparison, Summary
from graphprune.comparison.robustness import POINTS, Curve, Robustness, layerwise_robustness
from graphprune.comparison.running import compare, run_comparison, settled

__all__ = [
    "CRITERIA",
    "POINTS",
    "RATIOS",
    "REPAIRS",
    "SEEDS",
    "SETS",
    "Cell",
    "CompareFile",
    "CompareFolder",
    "CompareOptions",
    "Comparison",
    "Conditions",
    "Contestant",
    "Curve",
    "Images",
    "Oracle",
    "OracleRank",
    "Origin",
    "Questions",
    "Robustness",
    "SetsOfUnits",
    "Summary",
    "arrange",
    "compare",
    "comparison_of",
    "contestants",
    "layerwise_robustness",
    "oracle_groups",
    "run_comparison",
    "settled",
]
