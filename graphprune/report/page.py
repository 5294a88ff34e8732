"""The page: ``report.html``, which needs no network and no script."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from graphprune.artifacts import ManifestFile, PlanFile, RankingFile, RunFolder
from graphprune.files import write_text
from graphprune.report.pictures import Pictures, pictures_of
from graphprune.report.view import view_of

_TEMPLATE = "report.html"
_NO_PICTURES = Pictures()


def write_report(
    folder: RunFolder,
    manifest: ManifestFile,
    plan: PlanFile,
    ranking: RankingFile,
    *,
    network: str = "",
    path: Path | None = None,
) -> None:
    """Write ``report.html`` into a run's folder, whole or not at all.

    Args:
        folder: The run's folder, which may also hold a comparison.
        manifest: How the files came about, and whether they passed validation.
        plan: What was removed.
        ranking: The scores it was removed by.
        network: The network, drawn with its widths before and after, as an SVG element.
        path: Where to write; the folder's ``report.html`` by default.

    Raises:
        ArtifactError: The file cannot be written, or ``ranking`` scores other groups than ``plan``.
    """
    pictures = pictures_of(folder, manifest, network)
    write_text(folder.report if path is None else path, render(manifest, plan, ranking, pictures))


def render(
    manifest: ManifestFile,
    plan: PlanFile,
    ranking: RankingFile,
    pictures: Pictures = _NO_PICTURES,
) -> str:
    """Return the page as HTML.

    Names come from the user's files, so everything is escaped; the page also forbids itself to load
    or run anything.

    Raises:
        ArtifactError: ``ranking`` scores other groups than ``plan``.
    """
    run = view_of(manifest, plan, ranking)
    return _environment().get_template(_TEMPLATE).render(run=run, pictures=pictures)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
