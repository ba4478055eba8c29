"""Jupyter notebooks: the cells and the text of their outputs, as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ingest.errors import SkippedFileError
from ingest.loaders.document import Limits, Notice, ParsedDocument
from ingest.loaders.file import SourceFile
from ingest.loaders.markdown import markdown_document
from ingest.loaders.text import ANSI

_FENCE = re.compile(r"`{3,}")


class NotebookLoader:
    """Jupyter notebooks."""

    suffixes = (".ipynb",)
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the head is that of a JSON object with cells."""
        return re.match(rb'\s*\{\s*"cells"\s*:\s*\[\s*\{', head) is not None

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document: Markdown cells as written, code and the text of its outputs as code blocks."""
        text = yield from file.text(limits)
        try:
            notebook = json.loads(text)
            language = str(notebook.get("metadata", {}).get("kernelspec", {}).get("language", ""))
            # Before format 4, the cells were in worksheets.
            sheets = notebook.get("worksheets") or [notebook]
            cells = [part for sheet in sheets for cell in sheet["cells"] for part in _cell(cell, language)]
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise SkippedFileError(f"not a notebook: {type(error).__name__} {error}"[:200]) from error
        yield markdown_document(file, "\n\n".join(filter(None, cells)), limits)


def _cell(cell: dict[str, Any], language: str) -> Iterator[str]:
    source = _joined(cell.get("source", cell.get("input", "")))
    if cell["cell_type"] != "code":
        yield source
        return
    yield _code(source, language)
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        for text in (output.get("text"), data.get("text/markdown", data.get("text/plain")), output.get("traceback")):
            yield _code(ANSI.sub("", _joined(text)), "")


def _code(text: str, language: str) -> str:
    text = text.strip("\n")
    if not text.strip():
        return ""
    fence = max(_FENCE.findall(text), default="``", key=len) + "`"
    return f"{fence}{language}\n{text}\n{fence}"


def _joined(text: Any) -> str:
    return "".join(map(str, text)) if isinstance(text, list) else str(text or "")


LOADER = NotebookLoader()
