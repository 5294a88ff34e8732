"""The documentation's pages and their code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

_FENCE = re.compile(
    r"^(?:(?P<slow><!-- slow -->)\n+)?(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?"
    r"^```(?P<kind>\w+)(?P<title>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        kind: Its language.
        text: What it holds.
        line: Line of its first line in the page, from 1.
        title: File name that it is shown under, or ''.
        slow: Whether it is marked with ``<!-- slow -->``.
        output: What it prints, where a ``text`` block follows directly.
        not_run: Why it is not run, where it is marked with ``<!-- not run: REASON -->``.
    """

    kind: str
    text: str
    line: int
    title: str
    slow: bool
    output: str | None = None
    not_run: str = ""

    @property
    def commands(self) -> list[str]:
        """What is typed into a console, line by line, continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page; outputs are joined to the code that prints them."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(text):
        follows = found and not text[end : match.start()].strip()
        if match["kind"] == "text" and follows and found[-1].kind == "python":
            found[-1] = replace(found[-1], output=match["text"])
        else:
            title = re.search(r'title="([^"]+)"', match["title"])
            line = text.count("\n", 0, match.start("text")) + 1
            slow = match["slow"] is not None
            name = title[1] if title else ""
            reason = match["reason"] or ""
            block = Block(match["kind"], match["text"], line, name, slow, not_run=reason)
            found.append(block)
        end = match.end()
    return found


def pages_with(kind: str) -> list[Path]:
    """Return the pages that have a block of a language."""
    pages = sorted(DOCS.rglob("*.md"))
    return [page for page in pages if any(block.kind == kind for block in blocks_of(page))]


def section(page: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one of its level or above."""
    text = (DOCS / page).read_text(encoding="utf-8")
    level = heading.partition(" ")[0]
    pattern = rf"^{re.escape(heading)}$\n(.*?)(?=^#{{1,{len(level)}}} |\Z)"
    match = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    assert match, f"{page} has no heading {heading!r}"
    return match[1]


def code_spans(text: str) -> list[str]:
    """Return what stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
