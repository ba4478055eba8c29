"""`python -m ingest` as a Job runs it, and its output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from ingest.events import Advanced, Event, Noticed, Planned, Published, Skipped, Summary
from ingest.progress import headline, report, shown
from ingest.settings import IngestSettings
from tests.fakes.embedder import LoopbackEmbedder
from tests.ingest.golden import FILES

ROOT = Path(__file__).parents[2]


def ingest(
    *arguments: str, embedder: LoopbackEmbedder, tokenizer: Path, root: Path, **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("INGEST_")},
        "INGEST_INDEX_ROOT": str(root),
        "INGEST_EMBEDDER_URL": embedder.url,
        "INGEST_TOKENIZER": str(tokenizer),
        **settings,
    }
    return subprocess.run(
        [sys.executable, "-m", "ingest", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_job_publishes_then_finds_nothing_changed(
    tmp_path: Path, embedder: LoopbackEmbedder, tokenizer_path: Path
) -> None:
    job = ingest(str(FILES), "--json", embedder=embedder, tokenizer=tokenizer_path, root=tmp_path)
    assert job.returncode == 0, job.stderr
    summary = json.loads(job.stdout)
    assert summary["documents"] >= 14
    assert summary["version"] == (tmp_path / "default" / "current").read_text("ascii").strip()
    assert f"Published version {summary['version']}" in job.stderr
    assert "note: letter.txt: not UTF-8" in job.stderr
    again = ingest(str(FILES), "--json", embedder=embedder, tokenizer=tokenizer_path, root=tmp_path)
    assert again.returncode == 0
    assert json.loads(again.stdout)["unchanged"] is True
    assert f"Unchanged: version {summary['version']}" in again.stderr


def test_a_job_without_anything_usable_fails(tmp_path: Path, embedder: LoopbackEmbedder, tokenizer_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "bad.pdf").write_bytes(b"nothing")
    job = ingest(str(tmp_path / "docs"), embedder=embedder, tokenizer=tokenizer_path, root=tmp_path / "indexes")
    assert job.returncode == 1
    assert "No file gave a document; the index is unchanged. Skipped: bad.pdf: not a PDF" in job.stderr
    assert "Traceback" not in job.stderr
    assert not (tmp_path / "indexes" / "default" / "current").exists()


def test_wrong_settings_stop_the_job_at_once(tmp_path: Path, embedder: LoopbackEmbedder, tokenizer_path: Path) -> None:
    for settings, expected in (
        ({"INGEST_BATCH_SIZE": "many"}, "INGEST_BATCH_SIZE: "),
        ({"INGEST_CHUNK_TOKENS": "400"}, "Chunks of 400 tokens do not fit: between 8 and 248 do"),
    ):
        job = ingest(str(FILES), embedder=embedder, tokenizer=tokenizer_path, root=tmp_path, **settings)
        assert job.returncode == 2
        assert expected in job.stderr
    assert embedder.embedded == 0


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGEST_INDEX_ROOT", "/indexes")
    monkeypatch.setenv("INGEST_TOKENIZER", "/model/tokenizer.json")
    settings = IngestSettings.model_validate({})
    assert (settings.chunks().max_tokens, settings.chunks().overlap_tokens) == (198, 29)
    monkeypatch.setenv("INGEST_WINDOW_TOKENS", "8192")
    assert IngestSettings.model_validate({}).chunks().max_tokens == 400
    monkeypatch.setenv("INGEST_CHUNK_TOKENS", "120")
    monkeypatch.setenv("INGEST_OVERLAP_TOKENS", "0")
    settings = IngestSettings.model_validate({})
    assert (settings.chunks().max_tokens, settings.chunks().overlap_tokens) == (120, 0)
    assert settings.limits().max_pages == 10_000
    with pytest.raises(ValidationError):
        IngestSettings.model_validate({"batch_size": 0})


def test_every_setting_is_described() -> None:
    assert all(field.description for field in IngestSettings.model_fields.values())


EVENTS: list[Event] = [
    Skipped("a.bin", "binary, not text"),
    Planned(changed=2, unchanged=1, deleted=0, size_bytes=2_000_000),
    Noticed("b.txt", "not UTF-8"),
    Advanced(files=1, size_bytes=1_000_000, documents=10, chunks=100, embedded=90),
    Advanced(files=2, size_bytes=2_000_000, documents=20, chunks=200, embedded=180),
    Published("v"),
]


def test_a_terminal_sees_a_bar_with_rate() -> None:
    console = Console(force_terminal=True, width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    with console.file, shown(console) as on_progress:
        for event in EVENTS:
            on_progress(event)
    text = console.export_text()
    assert "100%" in text
    assert "20 documents · 200 chunks" in text


def test_a_log_sees_lines(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="ingest"), shown(Console(force_terminal=False)) as on_progress:
        for event in EVENTS:
            on_progress(event)
    assert [record.getMessage() for record in caplog.records] == [
        "2 files to read (2.0 MB), 1 unchanged, 0 gone",
        "published version v",
    ]


def test_the_report_puts_equal_reasons_together() -> None:
    summary = Summary(
        version="v",
        documents=1,
        chunks=1_200,
        embedded=1_000,
        reused=200,
        duplicates=2,
        deleted=1,
        skipped={
            **{f"{number}.xml": "no title" for number in range(5)},
            "z.pdf": "encrypted: needs a password",
            **{f"pictures/{number}.WEBP": "files ending in .webp are not read" for number in range(1_000)},
            "report.pages": "files ending in .pages are not read",
        },
        notices=["a.txt: odd"],
        seconds=4.0,
    )
    console = Console(record=True, width=60, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    with console.file:
        report(summary, console)
    assert console.export_text().splitlines() == [
        "  skipped 1,001 files of types that are not read: 1,000 .webp, 1 .pages",
        "  skipped 0.xml, 1.xml, 2.xml and 2 more: no title",
        "  skipped z.pdf: encrypted: needs a password",
        "  note: a.txt: odd",
        headline(summary),
    ]
    assert headline(summary) == (
        "Published version v: 1 document, 1,200 chunks (1,000 embedded, 200 reused, 2 duplicate documents left out, "
        "1 source gone, 1,007 files skipped) in 4.0 s, 250.0 chunks/s"
    )
