"""The page in a real browser, where there is one: nothing is refused, and everything is painted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from graphprune.drawing import draw
from graphprune.report import Pictures, render
from tests.helpers import random_kept
from tests.networks import traced
from tests.report import runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


def browse(page: Path, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    return subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            "--enable-logging=stderr",
            "--window-size=1100,1400",
            *arguments,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


@pytest.fixture
def page(tmp_path: Path) -> Path:
    graph = traced("Residual")
    network = draw(graph, random_kept(graph, 0.4, 0))
    path = tmp_path / "report.html"
    path.write_text(
        render(runs.manifest(), runs.plan(), runs.ranking(), Pictures(network=network)),
        encoding="utf-8",
    )
    return path


def test_nothing_is_refused(page: Path, tmp_path: Path) -> None:
    done = browse(page, tmp_path / "profile", "--dump-dom")
    assert "How to reproduce" in done.stdout
    # The browser reports there what the page's own policy forbids, and errors.
    assert "CONSOLE" not in done.stderr


def test_the_page_forbids_scripts(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</main>", "<script>document.title = 'ran'</script></main>"))
    done = browse(page, tmp_path / "profile", "--dump-dom")
    assert "<title>ran" not in done.stdout
    assert "CONSOLE" in done.stderr


def test_it_is_painted(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    browse(page, tmp_path / "profile", f"--screenshot={picture}")
    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    # A group's colour of the drawing, and the verdict's.
    found = {colour for count, colour in colours if count > 500}
    assert {(0x77, 0xAA, 0xDD), (0xE3, 0xF4, 0xEA)} <= found
