"""Whole runs against a real index on disk and an embedder on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import statistics
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from embedder.tokens import compatible
from ingest import pipeline
from ingest.concurrency import shield_to_completion
from ingest.errors import (
    EmbeddingFailedError,
    IndexNotWrittenError,
    NothingUsableError,
    ParserError,
    RemovalNotConfirmedError,
    SourceNotFoundError,
)
from ingest.events import Advanced, Event, Planned, Published, Skipped, Summary, Waiting
from ingest.settings import IngestSettings
from ingest.skipped import SkippedFile, skipped_files
from ingest.sources import followed, list_files, open_source
from ingest.sources.uploads import UploadSource
from tests.fakes.embedder import FINGERPRINT, OTHER_FINGERPRINT, LoopbackEmbedder, embed, embed_sparse
from tests.ingest.golden import FILES
from vectorstore.versions import IndexRoot, IndexVersion

MakeSettings = Callable[..., IngestSettings]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder of documents that a test may change."""
    folder = tmp_path / "docs"
    shutil.copytree(FILES, folder, ignore=shutil.ignore_patterns("golden"))
    return folder


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def index(settings: IngestSettings) -> IndexRoot:
    return IndexRoot(settings.index_root, settings.index_name)


def contents(version: IndexVersion) -> dict[str, tuple[str, list[tuple[str, int, int]]]]:
    """Document id to its text and its chunks' ids and spans."""
    chunks: dict[str, list[tuple[str, int, int]]] = {}
    for chunk in version.chunks():
        chunks.setdefault(chunk.document_id, []).append((chunk.id, chunk.start, chunk.end))
    return {document.id: (document.text, chunks.get(document.id, [])) for document in version.documents()}


async def run(settings: IngestSettings, *sources: Path) -> Summary:
    return await pipeline.run(settings, sources)


async def test_a_folder_becomes_an_index(docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder) -> None:
    events: list[Event] = []
    settings = make_settings()
    summary = await pipeline.run(settings, [docs], events.append)
    with index(settings).open() as version:
        assert summary.version == version.name
        assert (summary.documents, summary.chunks) == (
            version.manifest.counts.documents,
            version.manifest.counts.chunks,
        )
        assert summary.documents == 14
        assert set(version.manifest.sources) == {
            *(".content.xml", "boat.txt", "docsearch.json", "guide.md", "hugo.json", "letter.txt", "news.csv"),
            *("passages.jsonl", "report.txt", "site/page.html", "web.json"),
        }
        documents = {document.id: document for document in version.documents()}
        rows = version.exact.vectors
        prefixed = 0
        for row, chunk in enumerate(version.chunks()):
            document = documents[chunk.document_id]
            assert document.text[chunk.start : chunk.end] == chunk.text
            texts = [text for text in embedder.texts if text.endswith(compatible(chunk.text))]
            assert any(np.allclose(embed([text])[0], rows[row], atol=1e-6) for text in texts)
            prefixed += any(text.startswith(document.title + "\n") for text in texts)
        assert prefixed > summary.chunks / 2
        assert version.manifest.embedder.fingerprint == FINGERPRINT
        assert version.manifest.settings["chunker"]["max_tokens"] == 198
    assert summary.embedded == embedder.embedded == summary.chunks
    assert set(embedder.texts.values()) == {1}
    assert (summary.unchanged, summary.truncated, summary.duplicates, summary.skipped) == (False, 0, 0, {})
    assert "letter.txt: not UTF-8: read as Windows-1252 (cp1252)" in summary.notices
    assert isinstance(events[0], Planned)
    assert events[-1] == Published(version.name)
    last = [event for event in events if isinstance(event, Advanced)][-1]
    assert (last.files, last.documents, last.chunks, last.embedded) == (11, 14, summary.chunks, summary.chunks)
    assert last.size_bytes == events[0].size_bytes


async def test_nothing_changed_embeds_and_publishes_nothing(
    docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    settings = make_settings()
    first = await run(settings, docs)
    embedded = embedder.embedded
    again = await run(settings, docs)
    assert again.unchanged
    assert again.version == first.version
    assert (again.documents, again.chunks, again.embedded) == (first.documents, first.chunks, 0)
    assert again.skipped == first.skipped
    assert set(again.skipped) == {"broken.pdf"}
    assert embedder.embedded == embedded
    assert index(settings).versions() == [first.version]


async def test_only_what_changed_is_embedded(
    docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    settings = make_settings()
    first = await run(settings, docs)
    with index(settings).open() as version:
        before = contents(version)
    guide = docs / "guide.md"
    guide.write_text(guide.read_text("utf-8").replace("Cracks come from haste.", "Cracks come from cold."), "utf-8")
    everything = set(embedder.texts)
    embedder.forget()
    second = await run(settings, docs)
    everything |= set(embedder.texts)
    assert second.version != first.version
    assert (second.documents, second.chunks) == (first.documents, first.chunks)
    assert second.embedded == len(embedder.texts) == 1
    assert "Cracks come from cold." in next(iter(embedder.texts))
    assert second.reused == first.chunks - 1
    with index(settings).open() as version:
        after = contents(version)
        (changed,) = (document_id for document_id in after if after[document_id] != before[document_id])
        assert version.document(changed).source == "guide.md"
        # Every chunk has its own vector, copied or new.
        for chunk, row in zip(version.chunks(), version.exact.vectors, strict=True):
            said = [text for text in everything if text.endswith(compatible(chunk.text))]
            assert any(np.allclose(embed([text])[0], row, atol=1e-6) for text in said)


async def test_deleted_and_renamed_files_are_followed(
    docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    settings = make_settings()
    first = await run(settings, docs)
    (docs / "report.txt").unlink()
    (docs / "site" / "page.html").rename(docs / "glazes.html")
    embedded = embedder.embedded
    second = await run(settings, docs)
    assert embedder.embedded == embedded
    assert (second.deleted, second.embedded, second.documents) == (2, 0, first.documents - 1)
    with index(settings).open() as version:
        assert "report.txt" not in version.manifest.sources
        assert "glazes.html" in version.manifest.sources
        assert "site/page.html" not in version.manifest.sources


async def test_a_file_that_can_no_longer_be_read_keeps_its_documents(docs: Path, make_settings: MakeSettings) -> None:
    settings = make_settings()
    first = await run(settings, docs)
    with index(settings).open() as version:
        before = contents(version)
    (docs / "web.json").write_text("{", "utf-8")
    (docs / "boat.txt").unlink()
    (docs / "boat.txt").symlink_to("nowhere")
    shutil.move(docs / "site", docs.with_name("elsewhere"))
    (docs / "site").symlink_to(docs.with_name("elsewhere"))
    again = await run(settings, docs)
    assert (again.unchanged, again.version) == (True, first.version)
    (docs / "new.md").write_text("# Shelf\n\nThe shelf is for pots.", "utf-8")
    (docs / "report.txt").unlink()
    summary = await run(settings, docs)
    assert sorted(summary.stale) == ["boat.txt", "site/page.html", "web.json"]
    assert summary.skipped["web.json"].startswith("invalid JSON")
    assert (summary.documents, summary.deleted, summary.embedded) == (first.documents, 1, 1)
    with index(settings).open() as version:
        after = contents(version)
        assert {"web.json", "boat.txt", "site/page.html"} <= version.manifest.sources.keys()
    assert sum(after.get(document) != content for document, content in before.items()) == 1
    folder = settings.index_root / settings.index_name
    assert skipped_files(folder)["boat.txt"] == SkippedFile("broken symbolic link", stale=True)
    # A run that reads only uploads knows nothing else about the files of folders.
    await pipeline.run(settings, [docs], scope="uploads")
    assert sorted(skipped_files(folder)) == ["boat.txt", "site", "site/page.html", "web.json"]
    (docs / "web.json").write_text('{"title": "Kiln", "content": "The kiln is hot."}', "utf-8")
    assert sorted((await run(settings, docs)).stale) == ["boat.txt", "site/page.html"]
    assert sorted(skipped_files(folder)) == ["boat.txt", "site", "site/page.html"]


async def test_the_same_content_twice_is_kept_once(
    docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    settings = make_settings()
    first = await run(settings, docs)
    shutil.copy(docs / "guide.md", docs / "a copy.md")
    embedded = embedder.embedded
    again = await run(settings, docs)
    assert again.unchanged
    assert again.skipped == {"a copy.md": "has the same text as guide.md"}
    assert again.duplicates == 1
    (docs / "guide.md").unlink()
    moved = await run(settings, docs)
    assert (moved.documents, moved.chunks, moved.skipped) == (first.documents, first.chunks, {})
    assert embedder.embedded == embedded
    with index(settings).open() as version:
        assert "a copy.md" in version.manifest.sources


async def test_ids_do_not_depend_on_the_place_or_the_run(
    docs: Path, tmp_path: Path, make_settings: MakeSettings
) -> None:
    elsewhere = tmp_path / "elsewhere" / "pages"
    shutil.copytree(docs, elsewhere)
    one, two = make_settings(index_name="one"), make_settings(index_name="two")
    await run(one, docs)
    await run(two, elsewhere)
    with index(one).open() as first, index(two).open() as second:
        assert contents(first) == contents(second)


async def test_another_embedder_embeds_everything(
    docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    settings = make_settings()
    first = await run(settings, docs)
    embedder.fingerprint = OTHER_FINGERPRINT
    second = await run(settings, docs)
    assert second.embedded == first.chunks
    with index(settings).open() as version:
        assert version.manifest.embedder.fingerprint == OTHER_FINGERPRINT


async def test_other_sizes_rechunk_and_embed_only_new_chunks(docs: Path, make_settings: MakeSettings) -> None:
    first = await run(make_settings(), docs)
    second = await run(make_settings(chunk_tokens=100, min_chunk_tokens=8), docs)
    assert second.version != first.version
    assert second.chunks > first.chunks
    assert 0 < second.embedded < second.chunks


async def test_a_damaged_version_is_rebuilt(docs: Path, make_settings: MakeSettings) -> None:
    settings = make_settings()
    first = await run(settings, docs)
    assert first.version is not None
    (settings.index_root / settings.index_name / first.version / "manifest.json").write_text("{}", "utf-8")
    second = await run(settings, docs)
    assert (second.documents, second.embedded) == (first.documents, first.chunks)
    assert any("It is rebuilt from its sources" in notice for notice in second.notices)


async def test_old_versions_are_pruned(docs: Path, make_settings: MakeSettings) -> None:
    settings = make_settings(keep_versions=2)
    for number in range(4):
        (docs / "report.txt").write_text(f"Report {number}.", "utf-8")
        summary = await run(settings, docs)
    versions = index(settings).versions()
    assert len(versions) == 2
    assert versions[-1] == summary.version


# Failures


@pytest.fixture
def long_docs(tmp_path: Path) -> Path:
    """A corpus of a few hundred chunks in several files."""
    folder = tmp_path / "long"
    folder.mkdir()
    for number in range(6):
        write_corpus(folder / f"corpus{number}.jsonl", 40, number)
    return folder


def write_corpus(path: Path, documents: int, seed: int = 0, sentences: int = 12) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for number in range(documents):
            text = " ".join(f"The pot {seed}.{number}.{each} is by the kiln." for each in range(sentences))
            stream.write(json.dumps({"_id": f"d{number}", "title": f"Pot {number}", "text": text}) + "\n")


@pytest.mark.parametrize("published_before", [False, True])
async def test_an_embedder_that_fails_midway_leaves_the_index_as_it_was(
    docs: Path, long_docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder, published_before: bool
) -> None:
    settings = make_settings(batch_size=16, max_chunks_in_flight=64)
    before = (await run(settings, docs)).version if published_before else None
    embedder.fails_after = embedder.embedded + 100
    with pytest.raises(EmbeddingFailedError, match="failed 3 times: The embedder is not ready: model is not ready"):
        await run(settings, docs, long_docs)
    assert index(settings).current() == before
    assert index(settings).versions() == ([before] if before else [])
    left = {path.name for path in (settings.index_root / settings.index_name).iterdir()}
    assert left <= {".lock", ".run", "current", "skipped.json", "sources.json", before}
    embedder.fails_after = None
    assert (await run(settings, docs, long_docs)).documents == 14 + 240


async def test_short_failures_of_the_embedder_are_retried(
    docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    embedder.next_statuses = [503, 502]
    summary = await run(make_settings(), docs)
    assert summary.embedded == summary.chunks
    assert embedder.next_statuses == []


async def test_a_request_that_the_embedder_refuses_is_not_retried(
    docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    embedder.next_statuses = [400, 500, 500]
    with pytest.raises(EmbeddingFailedError, match="failed once: The embedder refused the request: no"):
        await run(make_settings(), docs / "report.txt")
    assert len(embedder.next_statuses) == 2


async def test_an_embedder_that_changes_midway_ends_the_run(
    long_docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    embedder.exchanged_after = 100
    settings = make_settings(batch_size=16)
    with pytest.raises(EmbeddingFailedError, match="changed during the run"):
        await run(settings, long_docs)
    assert index(settings).current() is None


async def test_a_missing_embedder_is_reported_before_parsing(docs: Path, make_settings: MakeSettings) -> None:
    with pytest.raises(EmbeddingFailedError, match=r"The embedder at http://127\.0\.0\.1:9 failed 3 times"):
        await run(make_settings(embedder_url="http://127.0.0.1:9"), docs)


async def test_nothing_usable_publishes_nothing(tmp_path: Path, make_settings: MakeSettings) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    settings = make_settings()
    with pytest.raises(NothingUsableError, match="No files to read in"):
        await run(settings, folder)
    (folder / "empty.md").touch()
    (folder / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(
        NothingUsableError, match=r"No file gave a document.*empty.md: empty; image.png: files ending in"
    ):
        await run(settings, folder)
    assert index(settings).current() is None


async def test_an_emptied_folder_leaves_the_index_unchanged(docs: Path, make_settings: MakeSettings) -> None:
    settings = make_settings()
    first = await run(settings, docs)
    empty(docs)
    (docs / "empty.md").touch()
    with pytest.raises(RemovalNotConfirmedError, match=r"This would remove 14 of 14 documents: .*and 8 more files"):
        await run(settings, docs)
    with pytest.raises(NothingUsableError, match="No file gave a document; the index is unchanged"):
        await pipeline.run(settings, [docs], allow_removal=True)
    assert index(settings).current() == first.version


async def test_paths_without_a_document_remove_nothing_even_with_uploads(
    docs: Path, tmp_path: Path, make_settings: MakeSettings
) -> None:
    settings = make_settings()
    uploads = settings.index_root / settings.index_name / "uploads"
    uploads.mkdir(parents=True)
    (uploads / "shelf.md").write_text("# Shelf\n\nThe shelf is for pots.", "utf-8")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    with pytest.raises(NothingUsableError, match=r"photo\.png: files ending in \.png are not read"):
        await run(settings, tmp_path / "photo.png")
    first = await run(settings, docs)
    for allow_removal in (False, True):
        with pytest.raises(NothingUsableError, match=r"photo\.png: files ending in \.png are not read"):
            await pipeline.run(settings, [tmp_path / "photo.png"], allow_removal=allow_removal)
    assert index(settings).versions() == [first.version]
    assert followed(settings.index_root / settings.index_name) == [str(docs)]


async def test_removing_most_documents_needs_a_confirmation(
    docs: Path, tmp_path: Path, make_settings: MakeSettings
) -> None:
    settings = make_settings()
    first = await run(settings, docs)
    shutil.move(docs, tmp_path / "all" / "moved")
    moved = await run(settings, tmp_path / "all")
    assert (moved.documents, moved.embedded) == (first.documents, 0)
    with pytest.raises(RemovalNotConfirmedError, match="--yes"):
        await run(settings, tmp_path / "all" / "moved" / "guide.md")
    assert index(settings).current() == moved.version
    summary = await pipeline.run(settings, [tmp_path / "all" / "moved" / "guide.md"], allow_removal=True)
    assert summary.documents == 1


async def test_wrong_paths_and_tokenizers_are_reported(docs: Path, tmp_path: Path, make_settings: MakeSettings) -> None:
    with pytest.raises(SourceNotFoundError):
        await run(make_settings(), tmp_path / "nowhere")
    with pytest.raises(ParserError, match="cannot be read: No such file"):
        await run(make_settings(tokenizer=tmp_path / "none.json"), docs)
    (tmp_path / "bad.json").write_text("{}", "utf-8")
    with pytest.raises(ParserError, match="is not a tokenizer"):
        await run(make_settings(tokenizer=tmp_path / "bad.json"), docs)


async def test_a_cancelled_run_leaves_nothing_behind(
    long_docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    settings = make_settings(batch_size=8, max_chunks_in_flight=16)
    task: asyncio.Task[Summary] | None = None

    def cancel(event: Event) -> None:
        if isinstance(event, Advanced) and event.chunks > 20 and task is not None:
            task.cancel()

    task = asyncio.create_task(pipeline.run(settings, [long_docs], cancel))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert index(settings).versions() == []
    assert not list((settings.index_root / settings.index_name).glob(".building-*"))
    assert _workers() == []


async def test_an_unwritable_index_is_reported(
    docs: Path, tmp_path: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(IndexNotWrittenError, match=r"cannot be written: .*Not a directory"):
        await run(make_settings(index_root=tmp_path / "taken"), docs)


# Hostile files


async def test_a_file_that_takes_too_long_is_skipped(docs: Path, make_settings: MakeSettings) -> None:
    (docs / "slow.jsonl").write_text('{"text": "' + "slow " * 2_000_000 + '"}', "utf-8")
    # Enough for the other files on a busy machine: the first file of a format imports its library.
    summary = await run(make_settings(parse_timeout_s=4.0), docs)
    assert summary.skipped == {"slow.jsonl": "parsing took longer than 4 s (INGEST_PARSE_TIMEOUT_S)"}
    assert summary.documents == 14


async def test_a_file_that_takes_too_much_memory_is_skipped(docs: Path, make_settings: MakeSettings) -> None:
    (docs / "greedy.json").write_text("[" + "[],[{}]," * 4_000_000 + "[]]", "utf-8")
    summary = await run(make_settings(parser_memory_bytes=512 * 1024**2), docs)
    assert "needs more memory" in summary.skipped["greedy.json"]
    assert summary.documents == 14


async def test_a_parser_that_dies_costs_only_its_file(
    docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    write_corpus(docs / "middle.jsonl", 2_000)
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, Advanced) and event.documents > 100 and not killed:
            killed.extend(_workers())
            for worker in killed:
                os.kill(worker, signal.SIGKILL)

    settings = make_settings(batch_size=16, max_chunks_in_flight=32)
    summary = await pipeline.run(settings, [docs], kill)
    assert len(killed) == 1
    (notice,) = (notice for notice in summary.notices if notice.startswith("middle.jsonl"))
    assert "read only in part" in notice
    assert "the parser was killed by SIGKILL while reading it" in notice
    with index(settings).open() as version:
        assert {"report.txt", "site/page.html", "web.json"} <= set(version.manifest.sources)


def _workers() -> list[int]:
    """Parser processes below this one."""
    workers = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "ingest.worker" in child.cmdline():
                workers.append(child.pid)
    return workers


def _peak_kib(process: int) -> int:
    """Peak memory of a running process."""
    (line,) = (line for line in Path(f"/proc/{process}/status").read_text("ascii").splitlines() if "VmHWM" in line)
    return int(line.split()[1])


# Rate and memory


async def test_the_embedder_always_has_its_next_batch(
    long_docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    embedder.waits_for = 3
    summary = await run(make_settings(batch_size=16, concurrency=3), long_docs)
    assert summary.documents == 240
    assert embedder.most_at_once == 3


async def test_one_document_larger_than_all_limits(
    tmp_path: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    path = tmp_path / "book.txt"
    path.write_text(" ".join(f"The pot {number} is by the kiln." for number in range(20_000)), "utf-8")
    summary = await run(make_settings(batch_size=16, max_chunks_in_flight=8), path)
    assert summary.documents == 1
    assert summary.embedded == summary.chunks > 500


async def test_many_small_files_never_wait_for_a_full_batch(tmp_path: Path, make_settings: MakeSettings) -> None:
    """There are many files, but fewer chunks than a batch."""
    folder = tmp_path / "small"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03}.md").write_text(f"# Pot {number}\n\nPot {number} stands on the shelf.")
    settings = make_settings(batch_size=1_000)
    assert (await asyncio.wait_for(run(settings, folder), 60)).embedded == 200
    # A new chunk, then many that need no embedder.
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"title": f"Row {row}", "text": f"Row {row} is for glaze."}) for row in range(300)]
    rows.write_text("\n".join(lines))
    assert (await asyncio.wait_for(run(settings, folder, rows), 60)).documents == 500
    (folder / "new.md").write_text("# New\n\nThe wheel turns.")
    assert (await asyncio.wait_for(run(settings, folder, rows), 60)).embedded == 1


async def test_memory_stays_bounded_while_the_corpus_grows_tenfold(
    tmp_path: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    embedder.remembers = False
    write_corpus(path := tmp_path / "corpus.jsonl", 200, sentences=400)
    settings = make_settings(batch_size=32, max_chunks_in_flight=128)
    held: list[tuple[int, int]] = []
    worker_peaks: list[tuple[int, int]] = []

    def note_held(event: Event) -> None:
        if isinstance(event, Advanced):
            held.append((event.documents, tracemalloc.get_traced_memory()[0]))
            for worker in _workers():
                # It may have ended in between.
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                    worker_peaks.append((event.documents, _peak_kib(worker)))

    tracemalloc.start()
    summary = await pipeline.run(settings, [path], note_held)
    tracemalloc.stop()
    assert (summary.documents, summary.chunks > 4_000) == (200, True)
    # Both at work: the first documents also import modules, and the last meet empty queues.
    # The median: the index writer fills and empties blocks of its own in between.
    early = statistics.median(size for documents, size in held if 10 <= documents <= 30)
    late = statistics.median(size for documents, size in held if 160 <= documents <= 190)
    assert late - early < path.stat().st_size / 2
    assert max(peak for _, peak in worker_peaks) < 1.2 * max(
        peak for documents, peak in worker_peaks if documents <= 30
    )


# Events


async def test_skipped_files_are_reported_once(docs: Path, make_settings: MakeSettings) -> None:
    (docs / "empty.md").touch()
    events: list[Any] = []
    await pipeline.run(make_settings(), [docs], events.append)
    assert [event for event in events if isinstance(event, Skipped)] == [Skipped("empty.md", "empty")]


async def test_an_embedder_with_more_outputs_fills_more_parts(
    docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    embedder.whole = True
    settings = make_settings()
    first = await run(settings, docs)
    with index(settings).open() as version:
        assert version.manifest.parts == ["dense", "lexical", "sparse", "multi_vector"]
        learned, multi = version.sparse(), version.multi_vectors()
        assert learned is not None
        assert multi is not None
        assert multi[0].bits == 2
        assert len(learned) == len(multi) == first.chunks
        texts = {text: embed_sparse(text)[0] for text in embedder.texts}
        for row, chunk in enumerate(version.chunks()):
            ids = [ids for text, ids in texts.items() if text.endswith(compatible(chunk.text))]
            assert learned[row].indices.tolist() in ids
        before = [multi[row] for row in range(len(multi))]
    # Unchanged chunks are not embedded again, and their stored vectors are copied bit for bit.
    embedder.forget()
    (docs / "new.md").write_text("# New\n\nA page about clay and water.")
    second = await run(settings, docs)
    assert second.embedded == len(embedder.texts) == 1
    with index(settings).open() as version:
        again = version.multi_vectors()
        assert again is not None
        rows = [again[row] for row in range(len(again))]
        known = {(stored.codes.tobytes(), stored.factors.tobytes()) for stored in rows}
        assert {(stored.codes.tobytes(), stored.factors.tobytes()) for stored in before} <= known


async def test_parts_are_settings(docs: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder) -> None:
    with pytest.raises(EmbeddingFailedError, match="multi_vector_count"):
        await run(make_settings(multi_vectors="on"), docs)
    embedder.whole = True
    plain = await run(make_settings(sparse="off", multi_vectors="off", language="none"), docs)
    with index(make_settings()).open() as version:
        assert version.manifest.parts == ["dense", "lexical"]
    # The same texts with more outputs: all are embedded again.
    sparse_only = await run(make_settings(sparse="on", multi_vectors="off"), docs)
    assert sparse_only.embedded == plain.chunks
    four = await run(make_settings(multi_vector_bits=4), docs)
    assert four.embedded == plain.chunks
    # With fewer outputs, the stored vectors suffice.
    again = await run(make_settings(multi_vectors="off"), docs)
    assert (again.embedded, again.unchanged) == (0, False)
    with index(make_settings()).open() as version:
        assert version.manifest.parts == ["dense", "lexical", "sparse"]


async def test_another_store_is_filled_without_embedding(docs: Path, make_settings: MakeSettings) -> None:
    first = await run(make_settings(), docs)
    second = await run(make_settings(store="exact"), docs)
    assert (second.version != first.version, second.chunks, second.embedded) == (True, first.chunks, 0)
    with index(make_settings()).open() as version:
        assert version.manifest.store == "exact"
    with pytest.raises(ValueError, match="there is no store 'none'"):
        make_settings(store="none")


def test_an_unknown_language_is_refused(make_settings: MakeSettings) -> None:
    with pytest.raises(ValueError, match="klingon"):
        make_settings(language="klingon")


# Uploads, and what a run reads


async def test_runs_of_one_index_wait_for_each_other(
    docs: Path, tmp_path: Path, make_settings: MakeSettings, embedder: LoopbackEmbedder
) -> None:
    settings = make_settings()
    more = tmp_path / "more"
    more.mkdir()
    (more / "shelf.md").write_text("# Shelf\n\nThe shelf is for pots.", "utf-8")
    second: list[Event] = []
    waits = asyncio.Event()

    def told(event: Event) -> None:
        second.append(event)
        if isinstance(event, Waiting):
            waits.set()

    embedder.hold()
    first = asyncio.create_task(run(settings, docs))
    assert await asyncio.to_thread(embedder.held.wait, 30)
    other = asyncio.create_task(pipeline.run(settings, [more], told, allow_removal=True))
    await asyncio.wait_for(waits.wait(), 30)
    embedder.pass_new()
    embedder.release()
    await first
    summary = await other
    assert second[0] == Waiting("Another run of this index is active.")
    assert (summary.documents, summary.deleted) == (1, len(list_files([open_source(docs)]).files))


async def test_the_index_follows_the_sources_of_the_last_run(
    docs: Path, tmp_path: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    folder = settings.index_root / settings.index_name
    assert followed(folder) == []
    monkeypatch.chdir(tmp_path)
    await run(settings, Path("docs"))
    assert followed(folder) == [str(docs)]
    with pytest.raises(SourceNotFoundError):
        await run(settings, Path("nowhere"))
    await pipeline.run(settings, [], scope="uploads")
    assert followed(folder) == [str(docs)]


async def test_an_emptied_folder_removes_nothing_even_with_uploads(docs: Path, make_settings: MakeSettings) -> None:
    settings = make_settings()
    uploads = settings.index_root / settings.index_name / "uploads"
    uploads.mkdir(parents=True)
    (uploads / "shelf.md").write_text("# Shelf\n\nThe shelf is for pots.", "utf-8")
    first = await run(settings, docs)
    assert first.documents == 15
    empty(docs)
    for scope in ("all", "reindex"):
        with pytest.raises(NothingUsableError, match="No files to read in"):
            await pipeline.run(settings, [docs], scope=scope)
    summary = await pipeline.run(settings, [docs], scope="uploads")
    assert (summary.unchanged, summary.version) == (True, first.version)


async def test_a_damaged_version_is_rebuilt_from_the_folders_too(docs: Path, make_settings: MakeSettings) -> None:
    settings = make_settings()
    first = await run(settings, docs)
    (settings.index_root / "default" / str(first.version) / "documents.sqlite").unlink()
    summary = await pipeline.run(settings, followed(settings.index_root / "default"), scope="uploads")
    assert summary.documents == first.documents
    assert any("It is rebuilt from its sources" in notice for notice in summary.notices)


async def test_on_finished_completes_before_the_next_run(docs: Path, make_settings: MakeSettings) -> None:
    settings = make_settings()
    begun, go_on = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def on_finished(summary: Summary) -> None:
        begun.set()
        await go_on.wait()
        done.append(f"after {summary.version}")

    first = asyncio.create_task(pipeline.run(settings, [docs], on_finished=on_finished))
    await asyncio.wait_for(begun.wait(), 60)
    waits = asyncio.Event()
    second = asyncio.create_task(
        pipeline.run(settings, [docs], lambda event: waits.set() if isinstance(event, Waiting) else None)
    )
    await asyncio.wait_for(waits.wait(), 60)
    first.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    summary = await second
    assert done == [f"after {summary.version}"]


async def test_the_last_document_can_be_deleted_beside_an_unusable_upload(
    tmp_path: Path, make_settings: MakeSettings
) -> None:
    settings, good, bad = make_settings(), tmp_path / "good.md", tmp_path / "bad.pdf"
    good.write_text("The kiln opens at first light.")
    bad.write_bytes(b"%PDF-1.4 nothing")
    uploads = {"uploads/good.md": good, "uploads/bad.pdf": bad}
    await pipeline.run(settings, [], uploads=UploadSource(str(tmp_path), files=uploads), scope="uploads")
    del uploads["uploads/good.md"]
    summary = await pipeline.run(settings, [], uploads=UploadSource(str(tmp_path), files=uploads), scope="uploads")
    assert (summary.documents, summary.deleted) == (0, 1)
    with index(settings).open() as version:
        assert version.name == summary.version
        assert not version.manifest.sources


async def test_shielded_work_completes_however_often_it_is_cancelled() -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await may_end.wait()
        ended.set()

    waiting = asyncio.create_task(shield_to_completion(work()))
    await begun.wait()
    for _ in range(3):
        waiting.cancel()
        await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    may_end.set()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert ended.is_set()
