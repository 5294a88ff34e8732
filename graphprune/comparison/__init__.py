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
from graphprune.comparison.plots import against_ratio, write_plots
from graphprune.comparison.questions import (
    CRITERIA,
    RATIOS,
    REPAIRS,
    SEEDS,
    CompareOptions,
    Conditions,
    Questions,
)
from graphprune.comparison.records import Cell, Comparison, Mean, Summary, mean_of
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
    "Mean",
    "Oracle",
    "OracleRank",
    "Origin",
    "Questions",
    "Robustness",
    "SetsOfUnits",
    "Summary",
    "against_ratio",
    "arrange",
    "compare",
    "comparison_of",
    "contestants",
    "layerwise_robustness",
    "mean_of",
    "oracle_groups",
    "run_comparison",
    "settled",
    "write_plots",
]
