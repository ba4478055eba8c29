"""Ingestion's rate relative to the embedder's own, and its memory, on a running graph.

The corpus is this project's documentation, repeated with edits so that every chunk is new. It is ingested into a
temporary index; then the same texts are sent directly to the embedder, in full batches. Both run twice, alternating, to
show drift of the machine's speed. For memory, the corpus and ten times the corpus are ingested with a stub embedder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.processes import free_port, running
from chassis.context import CallContext
from embedder.client import EmbedderClient, TokenCounter
from ingest.chunking import EmbeddingTexts
from ingest.pipeline import run
from ingest.settings import IngestSettings
from vectorstore.versions import IndexRoot

ROOT = Path(__file__).parent.parent


def make_corpus(folder: Path, copies: int) -> None:
    """The documentation, `copies` times, with different words in each line of each copy."""
    pages = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/**/*.md")])
    words = ("red", "green", "blue", "north", "south", "alpha", "beta", "gamma", "delta", "stone", "river", "field")
    for copy in range(copies):
        chosen = random.Random(copy)
        for number, page in enumerate(pages):
            lines = [
                f"{line} {chosen.choice(words)} {copy}" if line.strip("`-| ") else line
                for line in page.read_text(encoding="utf-8").splitlines()
            ]
            (folder / f"{copy}-{number}.md").write_text("\n".join(lines), encoding="utf-8")


_PIECE = 512


def settings_for(root: Path, url: str, tokenizer: Path) -> IngestSettings:
    return IngestSettings(index_root=root, embedder_url=url, tokenizer=tokenizer)


async def embed_directly(settings: IngestSettings, root: Path) -> tuple[int, float]:
    """Number of chunks, and seconds that the embedder takes for their texts."""
    texts_of = EmbeddingTexts(settings.chunks(), TokenCounter.load(settings.tokenizer))
    with IndexRoot(root, settings.index_name).open() as version:
        titles = {document.id: document.title for document in version.documents()}
        texts = [
            (texts_of.prefix(titles[chunk.document_id], chunk.heading_path, chunk.text) or "") + chunk.text
            for chunk in version.chunks()
        ]
        multi_vectors = "multi_vector" in version.manifest.parts
    client = EmbedderClient(settings.embedder_url, model=settings.embedder_model)
    await client.embed(texts[:64], CallContext.start(60), input_type="passage", multi_vectors=multi_vectors)
    # In batches, because multi-vectors of all texts would fill the memory; two at a time keep the embedder busy.
    pieces = iter([texts[start : start + _PIECE] for start in range(0, len(texts), _PIECE)])

    async def embed() -> None:
        for piece in pieces:
            await client.embed(piece, CallContext.start(600), input_type="passage", multi_vectors=multi_vectors)

    began = time.perf_counter()
    await asyncio.gather(embed(), embed())
    seconds = time.perf_counter() - began
    await client.aclose()
    return len(texts), seconds


def peak_mb(corpus: Path, url: str, tokenizer: Path) -> tuple[int, float]:
    """Number of chunks, and peak resident memory in MB of a process that ingests the corpus."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ingest_rate", "--peak-of", str(corpus), url, str(tokenizer)],
        capture_output=True,
        check=True,
    )
    chunks, megabytes = json.loads(done.stdout)
    return chunks, megabytes


def measure(url: str, tokenizer: Path, copies: int) -> list[str]:
    """The tables, as lines of Markdown."""
    lines = ["| run | chunks | ingest chunks/s | the embedder alone | ratio |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        make_corpus(corpus, copies)
        for number in (1, 2):
            root = Path(folder) / f"index-{number}"
            settings = settings_for(root, url, tokenizer)
            summary = asyncio.run(run(settings, [corpus]))
            chunks, seconds = asyncio.run(embed_directly(settings, root))
            rate = chunks / seconds
            lines.append(
                f"| {number} | {summary.embedded} | {summary.chunks_per_s:.1f} | {rate:.1f} | "
                f"{summary.chunks_per_s / rate:.2f} |"
            )
        lines += ["", "| corpus | chunks | peak memory MB |", "|---|---|---|"]
        port = free_port()
        with running(["-m", "benchmarks.triton_stub", str(port), "0", "0"], f"http://127.0.0.1:{port}/ready"):
            for times in (1, 10):
                many = Path(folder) / f"corpus-{times}"
                many.mkdir()
                make_corpus(many, copies * times)
                chunks, megabytes = peak_mb(many, f"http://127.0.0.1:{port}", tokenizer)
                lines.append(f"| {times} × | {chunks} | {megabytes:.0f} |")
    return lines


def print_peak(corpus: Path, url: str, tokenizer: Path) -> None:
    with tempfile.TemporaryDirectory() as root:
        summary = asyncio.run(run(settings_for(Path(root), url, tokenizer), [corpus]))
    print(json.dumps([summary.chunks, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


if __name__ == "__main__":
    if sys.argv[1] == "--peak-of":
        print_peak(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embedder_url")
    parser.add_argument("tokenizer", type=Path, help="tokenizer.json of the embedder")
    parser.add_argument("--copies", type=int, default=3, help="times the documentation is repeated (default: 3)")
    arguments = parser.parse_args()
    print("\n".join(measure(arguments.embedder_url, arguments.tokenizer, arguments.copies)))
