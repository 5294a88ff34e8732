"""Report: what a run asked for, reached and proved, on one page for people."""

from graphprune.report.page import render, write_report
from graphprune.report.pictures import Pictures, pictures_of
from graphprune.report.plots import write_run_plots

__all__ = ["Pictures", "pictures_of", "render", "write_report", "write_run_plots"]
