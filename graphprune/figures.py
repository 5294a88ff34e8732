"""Figures: how plots look, and how they are written."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from graphprune.errors import OptionError
from graphprune.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("svg", "png", "none")
"""What plots are written as."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A5A00", "#000000")
"""Told apart also by those who see fewer colours (Okabe and Ito)."""

_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.hashsalt": "graphprune",
}

Named = Iterable[tuple[str, "Figure"]]
"""Names of files without their ending, each with its figure; drawn when it is asked for."""


def check_plots(kind: str) -> None:
    """Refuse an unknown kind of plots.

    Raises:
        OptionError: It is unknown.
    """
    if kind not in KINDS:
        raise OptionError(f"plots {kind!r} is none of {', '.join(KINDS)}")


def write_figures(figures: Named, folder: Path, kind: str) -> tuple[Path, ...]:
    """Write figures, each file whole or not at all.

    Args:
        figures: The figures; not even drawn for the kind ``none``.
        folder: Where the files go.
        kind: One of :data:`KINDS`.

    Returns:
        The files written.

    Raises:
        OptionError: The kind is unknown.
        ArtifactError: The folder cannot be written to.
    """
    check_plots(kind)
    if kind == "none":
        return ()
    import matplotlib as mpl

    paths = []
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        for name, figure in figures:
            path = folder / f"{name}.{kind}"
            metadata = {"Date": None} if kind == "svg" else None  # equal plots are equal files
            with replacing(path) as temporary:
                figure.savefig(temporary, format=kind, metadata=metadata)
            paths.append(path)
    return tuple(paths)


def inline_svg(figures: Named) -> dict[str, str]:
    """Return figures by name as SVG elements that a page can hold."""
    import matplotlib as mpl

    found = {}
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        for name, figure in figures:
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None})
            found[name] = _element(text.getvalue())
    return found


def _element(file: str) -> str:
    """Return the SVG element without what makes it a file of its own."""
    element = file[file.index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)


def panels(count: int, *, per_row: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels in rows, each of so many inches."""
    from matplotlib.figure import Figure

    columns = min(count, per_row)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in grid[count:]:
        spare.remove()
    return figure, grid[:count]
