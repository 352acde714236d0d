"""Plain text for a terminal or a mail."""

from __future__ import annotations

import textwrap


def wrap(text: str, indent: str, width: int = 92) -> list[str]:
    """Lines of at most `width` columns, each after the indent; at least one."""
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent) or [indent]
