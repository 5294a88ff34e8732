"""Comparison: criteria side by side, on images that ranked nothing."""

from graphprune.comparison.robustness import Curve, Robustness, layerwise_robustness

__all__ = ["Curve", "Robustness", "layerwise_robustness"]
