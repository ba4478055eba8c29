"""Documents as JSON, for comparison with the files in `files/golden`. `python golden.py` rewrites them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ingest.errors import SkippedFileError
from ingest.loaders import Limits, ParsedDocument, SourceFile, load

FILES = Path(__file__).parent / "files"
GOLDEN = FILES / "golden"
SOURCES = (
    "guide.md",
    "report.txt",
    "letter.txt",
    "boat.txt",
    "site/page.html",
    "news.csv",
    "web.json",
    "docsearch.json",
    "hugo.json",
    "passages.jsonl",
    ".content.xml",
)


def golden_path(source: str) -> Path:
    return GOLDEN / (source.replace("/", "_").lstrip(".") + ".json")


def loaded(source: str, limits: Limits | None = None) -> dict[str, Any]:
    """Everything that the loader returns for a file."""
    documents, notices, skipped = [], [], None
    try:
        for item in load(SourceFile(FILES / source, source), limits or Limits()):
            if isinstance(item, ParsedDocument):
                documents.append(
                    {
                        "key": item.key,
                        "title": item.title,
                        "url": item.url,
                        "metadata": dict(item.metadata),
                        "text": item.text.split("\n"),
                        "headings": [
                            [heading.level, heading.title, item.text[heading.start : heading.end]]
                            for heading in item.headings
                        ],
                        "blocks": [item.text[block.start : block.end] for block in item.blocks],
                    }
                )
            else:
                notices.append(item.text)
    except SkippedFileError as error:
        skipped = str(error)
    return {"documents": documents, "notices": notices, "skipped": skipped}


def main() -> int:
    for source in SOURCES:
        golden_path(source).write_text(json.dumps(loaded(source), ensure_ascii=False, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
