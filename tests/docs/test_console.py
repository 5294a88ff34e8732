"""Every command of the documentation is one that there is, and the slow tests type it.

Quick: each is parsed by the command line itself. Slow: those of a page are run in the order of the
page, after its Python blocks, in a folder that also holds what the reader is told to have: a small
``model.pt``, ``images.npz`` and ``images/``. Where a page saves a network of torchvision as
``model.pt``, commands go on with the small one, which takes seconds instead of minutes. A block
behind ``<!-- not run: REASON -->`` is only parsed.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from graphprune_cli.__main__ import app
from tests.docs.pages import DOCS, Block, blocks_of, pages_with
from tests.docs.test_code_blocks import namespace, run  # noqa: F401 - a fixture

ROOT = DOCS.parent
PAGES = [*pages_with("console"), ROOT / "README.md"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

ELSEWHERE = {
    "make": "the continuous integration runs the targets",
    "pip": "installs",
    "source": "is of the shell",
    "torchrun": "tests/distributed does",
    "python benchmarks/": "tests/benchmarks does",
}
"""How commands begin that are not run here, and why not."""


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def is_synopsis(block: Block) -> bool:
    """Whether a block of the reference says how commands are put together."""
    return "[OPTIONS]" in block.text


def consoles(page: Path) -> list[Block]:
    return [b for b in blocks_of(page) if b.kind == "console" and not is_synopsis(b)]


TYPED = [
    pytest.param(command, id=f"{_name(page)}:{block.line}")
    for page in PAGES
    for block in consoles(page)
    for command in block.commands
]


@pytest.mark.parametrize("command", TYPED)
def test_there_is_such_a_command(command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    if words[0] in ("graphprune", "graphprune_cli"):
        COMMANDS[words[1]].make_context(words[1], words[2:])
    elif words[:1] == ["python"] and words[1].startswith("benchmarks/"):
        script = (ROOT / words[1]).read_text(encoding="utf-8")
        options = [word.replace("--no-", "--") for word in words[2:] if word.startswith("--")]
        assert [option for option in options if f'"{option}"' not in script] == []
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
    else:
        assert any(command.startswith(start) for start in ("pip install", "source", "python -c"))


def test_typing_errors_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--rato"):
        test_there_is_such_a_command("graphprune prune --rato 0.3")
    with pytest.raises(KeyError):
        test_there_is_such_a_command("graphprune shrink model.pt")
    with pytest.raises(AssertionError):
        test_there_is_such_a_command("make everything")


def runs_here(block: Block) -> bool:
    return not block.not_run and any(not _elsewhere(command) for command in block.commands)


def _elsewhere(command: str) -> bool:
    return any(command.startswith(start) for start in ELSEWHERE)


RUN = [page for page in PAGES if any(map(runs_here, consoles(page)))]


@pytest.fixture
def belongings(tmp_path: Path) -> bytes:
    """Make what a reader is told to have; the small ``model.pt`` is returned, too."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    for name in ("model.pt", "backbone.pt"):
        torch.save(model.eval(), tmp_path / name)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels, y=np.arange(60) % 10)
    for number, image in enumerate(pixels[:40]):
        folder = tmp_path / "images" / f"class{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return (tmp_path / "model.pt").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=_name)
def test_commands_run(
    page: Path,
    belongings: bytes,
    namespace: dict[str, object],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for block in blocks_of(page):
        if block.kind == "python":
            run(page, [block], namespace)
            _keep_small(block.text, belongings)
        elif block.kind == "console" and not is_synopsis(block) and not block.not_run:
            for command in block.commands:
                if not _elsewhere(command):
                    _type(command, f"{page.name}, line {block.line}: {command}", monkeypatch)
                    _keep_small(command, belongings)


def _keep_small(code: str, model: bytes) -> None:
    if "torchvision.models" in code:
        Path("model.pt").write_bytes(model)


def _type(command: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], check=True)
        return
    monkeypatch.setattr(sys, "argv", words)
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{where}\n{done.stderr}"
