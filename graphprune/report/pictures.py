"""Pictures of a run: the network with its widths, and accuracy against ratio.

Both are SVG elements that stand in the page itself. They are made here, from escaped text, so the
page takes them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.artifacts import ManifestFile, RunFolder, read
from graphprune.comparison import CompareFile, against_ratio, comparison_of
from graphprune.errors import ArtifactError


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What the page shows beside tables.

    Args:
        network: The network drawn, see :func:`graphprune.drawing.draw`; '' for none.
        comparison: Accuracy against ratio, drawn; '' for none.
        comparison_of: What that was measured on, or why a comparison in the folder is not shown.
    """

    network: str = ""
    comparison: str = ""
    comparison_of: str = ""


def pictures_of(folder: RunFolder, manifest: ManifestFile, network: str) -> Pictures:
    """Return the pictures of a run.

    Args:
        folder: Where ``graphprune compare`` may have left a ``compare.json``.
        manifest: Says which network was pruned; a comparison of another is not shown.
        network: The network, drawn.
    """
    path = folder.path / "compare.json"
    if not path.exists():
        return Pictures(network=network)
    try:
        file = read(path, CompareFile)
    except ArtifactError as error:
        return Pictures(network=network, comparison_of=f"No comparison is shown: {error.message}.")
    if file.model.sha256 != manifest.model.sha256:
        return Pictures(network=network, comparison_of="compare.json is of another network.")
    conditions = file.conditions
    return Pictures(
        network=network,
        comparison=against_ratio(comparison_of(file)),
        comparison_of=f"From compare.json: judged on {conditions.n_judging:,} images that neither "
        f"ranked nor repaired; each seed drew {conditions.n_drawn:,} others.",
    )
