from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

WriteSet = Callable[..., Path]


@pytest.fixture
def write_set(tmp_path: Path) -> WriteSet:
    """Writes a dataset; missing parts default to the smallest valid ones."""

    def write(
        corpus: Sequence[Any] | bytes = ({"_id": "d1", "title": "T", "text": "Ducks swim."},),
        queries: Sequence[Any] | bytes = ({"_id": "q1", "text": "What swims?"},),
        qrels: str = "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
        name: str = "small",
        qrels_file: str = "qrels.tsv",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
            if not isinstance(content, bytes):
                lines = (one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in content)
                content = "".join(f"{line}\n" for line in lines).encode()
            (folder / file).write_bytes(content)
        (folder / qrels_file).parent.mkdir(exist_ok=True)
        (folder / qrels_file).write_text(qrels, encoding="utf-8")
        return folder

    return write
