"""Structured pruning of PyTorch networks by Shapley values."""

__version__ = "0.1.0"
