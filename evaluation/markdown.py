"""Markdown tables and sections, and pages with generated parts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.errors import EvaluationError


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of rows (column → cell); empty without rows."""
    header = dict.fromkeys(key for row in rows for key in row)
    cells = [list(header), *([row.get(key, "") for key in header] for row in rows)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]]) if rows else ""


def section(title: str, text: str, rows: Sequence[Mapping[str, str]]) -> str:
    """A title, a text and a table; empty without rows."""
    return "\n\n".join(filter(None, (f"### {title}", text, table(rows)))) if rows else ""


def replace_part(page: Path, name: str, content: str) -> None:
    """Replace the part of a page between `<!-- NAME: how to generate it -->` and `<!-- end of NAME -->`.

    Raises:
        EvaluationError: the page does not have these two lines.
    """
    marks = re.compile(rf"(<!-- {name}: .* -->\n)[^\0]*(\n<!-- end of {name} -->)")
    text, count = marks.subn(lambda found: f"{found[1]}\n{content}{found[2]}", page.read_text(encoding="utf-8"))
    if count != 1:
        raise EvaluationError(f"{page} needs the lines <!-- {name}: … --> and <!-- end of {name} --> around that part.")
    write(page, text)


def write(path: Path, content: str) -> None:
    """Write a file atomically. Creates its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
