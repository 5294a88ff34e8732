"""Report: what a run asked for, reached and proved, on one page for people."""

from graphprune.report.page import render, write_report

__all__ = ["render", "write_report"]
