"""Every Python block of the documentation runs, and prints what the page says that it prints.

The blocks of a page share one namespace and one empty folder. A block behind ``<!-- slow -->`` runs
with the slow tests only; no quick block may need one.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest

from graphprune import criteria, estimators, ops
from tests.docs.pages import DOCS, Block, blocks_of, pages_with

PAGES = [*pages_with("python"), DOCS.parent / "README.md"]
SLOW = [page for page in PAGES if any(block.slow for block in blocks_of(page))]

REGISTRIES = (
    criteria.base._CRITERIA,
    estimators.base._ESTIMATORS,
    ops.registry._RULES,
    ops.registry._REWRITES,
)


def _name(page: Path) -> str:
    return str(page.relative_to(DOCS.parent))


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """An empty module in an empty folder; what pages register is gone afterwards."""
    module = ModuleType("documentation")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    before = [dict(registry) for registry in REGISTRIES]
    yield vars(module)
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(entries)


def test_there_are_pages() -> None:
    assert len(PAGES) >= 10


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_blocks_run(page: Path, namespace: dict[str, object]) -> None:
    run(page, [block for block in blocks_of(page) if not block.slow], namespace)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=_name)
def test_slow_blocks_run(page: Path, namespace: dict[str, object]) -> None:
    run(page, blocks_of(page), namespace)


def run(page: Path, blocks: list[Block], namespace: dict[str, object]) -> None:
    for block in blocks:
        if block.kind != "python":
            continue
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        # Empty lines in front, so that tracebacks name the line of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(code, namespace)
        if block.output is not None:
            assert printed.getvalue() == block.output, f"{page.name}, line {block.line}"
