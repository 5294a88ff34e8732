"""A hook of MkDocs: docstrings' roles (``:func:`name```) become plain code in the pages."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?([^<]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Return a page's HTML without roles; modules of this package lose their path."""
    return _ROLE.sub(lambda match: f"<code>{match[1].removeprefix('graphprune.')}</code>", html)
