"""Ingestion's rate relative to the embedder's own, and its memory, on a running graph.

The corpus is this project's documentation, repeated with edits so that every chunk is new. It is ingested into a
temporary index; then the same texts are sent directly to the embedder, in full batches. Both run twice, alternating, to
show drift of the machine's speed. For memory, the corpus and ten times the corpus are ingested with a stub embedder.
"""

from __future__ import annotations

import asyncio
import random
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.document import WORDS, Options, documentation
from benchmarks.processes import free_port, graph, in_a_process, running
from chassis.context import CallContext
from embedder.client import EmbedderClient
from embedder.tokens import TokenCounter
from evaluation.markdown import table
from ingest.chunking import EmbeddingTexts
from ingest.pipeline import run
from ingest.settings import IngestSettings
from vectorstore.versions import IndexRoot

TITLE = "Ingestion"
COPIES = 3
"""Number of copies of the documentation."""
TEXTS_PER_CALL = 512


def make_corpus(folder: Path, copies: int) -> Path:
    """The documentation, `copies` times, with different words in each line of each copy."""
    folder.mkdir()
    for copy in range(copies):
        chosen = random.Random(copy)
        for number, page in enumerate(documentation()):
            lines = [
                f"{line} {chosen.choice(WORDS)} {copy}" if line.strip("`-| ") else line for line in page.splitlines()
            ]
            (folder / f"{copy}-{number}.md").write_text("\n".join(lines), encoding="utf-8")
    return folder


async def embed_directly(settings: IngestSettings) -> tuple[int, float]:
    """The number of chunks, and the embedder's time for their texts in seconds."""
    texts_of = EmbeddingTexts(settings.chunks(), TokenCounter.load(settings.tokenizer))
    with IndexRoot(settings.index_root, settings.index_name).open() as version:
        titles = {document.id: document.title for document in version.documents()}
        texts = [
            (texts_of.prefix(titles[chunk.document_id], chunk.heading_path, chunk.text) or "") + chunk.text
            for chunk in version.chunks()
        ]
        multi_vectors = "multi_vector" in version.manifest.parts
    client = EmbedderClient(settings.embedder_url, model=settings.embedder_model)
    await client.embed(texts[:64], CallContext.start(60), input_type="passage", multi_vectors=multi_vectors)
    # Multi-vectors of all texts would fill the memory. Two calls at a time keep the embedder busy.
    parts = iter([texts[start : start + TEXTS_PER_CALL] for start in range(0, len(texts), TEXTS_PER_CALL)])

    async def embed() -> None:
        for part in parts:
            await client.embed(part, CallContext.start(600), input_type="passage", multi_vectors=multi_vectors)

    began = time.perf_counter()
    await asyncio.gather(embed(), embed())
    seconds = time.perf_counter() - began
    await client.aclose()
    return len(texts), seconds


def peak_mb(corpus: Path, settings: IngestSettings) -> tuple[int, float]:
    """Ingests the corpus. Returns the number of chunks and the peak resident memory of this process in MB."""
    summary = asyncio.run(run(settings, [corpus]))
    return summary.chunks, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(options: Options) -> list[str]:
    """The tables."""
    state, copies = graph(), 1 if options.quick else COPIES
    tokenizer = state.tokenizer
    assert tokenizer is not None
    port = free_port()
    stub_url = f"http://127.0.0.1:{port}"
    rates, peaks = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def settings(index: str, url: str) -> IngestSettings:
            return IngestSettings(index_root=folder / index, embedder_url=url, tokenizer=tokenizer)

        corpus = make_corpus(folder / "corpus", copies)
        for number in (1, 2):
            own = settings(f"index-{number}", state.services["embedder"].url)
            summary = asyncio.run(run(own, [corpus]))
            chunks, seconds = asyncio.run(embed_directly(own))
            rates.append(
                {
                    "run": str(number),
                    "chunks": str(summary.embedded),
                    "ingest chunks/s": f"{summary.chunks_per_s:.1f}",
                    "the embedder alone": f"{chunks / seconds:.1f}",
                    "ratio": f"{summary.chunks_per_s * seconds / chunks:.2f}",
                }
            )
        with running(["-m", "benchmarks.triton_stub", str(port), "0", "0"], f"{stub_url}/ready"):
            for times in (1, 10):
                corpus = make_corpus(folder / f"corpus-{times}", copies * times)
                chunks, megabytes = in_a_process(peak_mb, corpus, settings(f"index-of-{times}", stub_url))
                peaks.append({"corpus": f"{times} ×", "chunks": str(chunks), "peak memory MB": f"{megabytes:.0f}"})
    return [table(rates), table(peaks)]
