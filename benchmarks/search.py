"""Latency of a hybrid search over 100,000 chunks, without encoding the query, and the size of the index.

Chunks are paragraphs of this project's documentation, repeated with edits. Encoding them would take an hour, so their
vectors are random, around one direction per original paragraph: neighbours are as near as in real texts. A query
is a sentence of the documentation. One query at a time, on one core.

`dense` is an index like MiniLM's: vectors of 384 dimensions and BM25. `whole` is like BGE-M3's: vectors of 1,024
dimensions, learned sparse vectors, and 300 token vectors per chunk in 2 bits per number, read for the best 32 chunks.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import resource
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from benchmarks.document import WORDS, Options, documentation
from benchmarks.processes import in_a_process
from chassis.context import CallContext
from embedder.client import EmbedderClient
from embedder.wire import Embeddings, SparseVector
from evaluation.markdown import table
from vectorstore.service import VectorstoreService
from vectorstore.versions import Chunk, Document, IndexRoot, Quantiser
from vectorstore.wire import SearchInstance

TITLE = "Search at 100,000 chunks"
KINDS = ("dense", "whole")
BUILDING = "MiB of memory while building"
SERVING = "MiB of memory while serving, mapped files that were read included"
FINGERPRINT = "benchmark@sha256:0"
TOKENS = 300
"""Token vectors per chunk in `whole`."""
QUERY_TOKENS = 16


class SyntheticEmbedder:
    """Replaces the embedder: random vectors around one direction per topic, computed before the clock starts."""

    def __init__(self, dimension: int, *, whole: bool) -> None:
        self.dimension, self.whole = dimension, whole

    @classmethod
    def of(cls, kind: str) -> SyntheticEmbedder:
        """The embedder of an index of this kind."""
        return cls(1024, whole=True) if kind == "whole" else cls(384, whole=False)

    def near(self, topic: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """float32[dim] of length 1, at a cosine of about 0.7 with others of its topic and 0.25 with the rest."""
        common = np.random.default_rng(0).standard_normal(self.dimension)
        own = np.random.default_rng(topic + 1).standard_normal(self.dimension)
        vector = 0.6 * common + 0.8 * own + 0.7 * rng.standard_normal(self.dimension)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def sparse(self, text: str) -> SparseVector:
        ids = sorted({hash_of(word) for word in re.findall(r"\w+", text.lower())})
        return SparseVector(np.array(ids, np.int32), np.full(len(ids), 0.1, np.float32))

    def matrix(self, tokens: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        vectors = rng.standard_normal((tokens, self.dimension), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    async def embed(self, texts: Sequence[str], ctx: CallContext, **_: Any) -> Embeddings:
        rng = np.random.default_rng(len(texts[0]) if texts else 0)
        count = max(len(texts), 1)
        return Embeddings(
            np.stack([self.near(7, rng) for _ in range(count)])[: len(texts)],
            np.full(len(texts), QUERY_TOKENS, np.int32),
            np.zeros(len(texts), np.bool_),
            FINGERPRINT,
            tuple(self.sparse(text) for text in texts) if self.whole else None,
            tuple(self.matrix(QUERY_TOKENS, rng) for _ in texts) if self.whole else None,
        )

    async def fingerprint(self, _: CallContext) -> str:
        return FINGERPRINT

    async def aclose(self) -> None:
        pass


def hash_of(word: str) -> int:
    return int.from_bytes(word.encode()[:3].ljust(3), "big") % 250_000


def passages() -> list[str]:
    """Paragraphs of the documentation, joined to about 900 characters each."""
    joined: list[str] = []
    for page in documentation():
        for paragraph in page.split("\n\n"):
            if joined and len(joined[-1]) + len(paragraph) < 900:
                joined[-1] += "\n\n" + paragraph
            elif paragraph.strip():
                joined.append(paragraph)
    return joined


def chunks(count: int) -> Iterator[tuple[int, str]]:
    """`count` pairs of (number of the original, edited text)."""
    originals = passages()
    chosen = random.Random(0)
    for number in range(count):
        topic = number % len(originals)
        words = originals[topic].split(" ")
        for _ in range(max(1, len(words) // 8)):
            words[chosen.randrange(len(words))] = f"{chosen.choice(WORDS)}{chosen.randrange(2_000)}"
        yield topic, " ".join(words)


def build(root: Path, count: int, encoder: SyntheticEmbedder, *, folders: int = 1) -> None:
    """Publishes an index of `count` documents in so many folders, `0/`, `1/` and so on."""
    rng = np.random.default_rng(1)
    with IndexRoot(root, "default").begin(
        embedder_fingerprint=FINGERPRINT,
        dimension=encoder.dimension,
        settings={},
        sparse=encoder.whole,
        multi_vector_bits=2 if encoder.whole else None,
    ) as builder:
        # One set of values is enough: they do not affect the time.
        stored = None
        for number, (topic, text) in enumerate(chunks(count)):
            name = f"{number:08}"
            document = Document(name, text, "", None, f"{number % folders}/{name}.md", "0" * 64, {"part": number % 10})
            if encoder.whole and stored is None:
                stored = Quantiser(encoder.dimension, 2).encode(encoder.matrix(TOKENS, rng))
            builder.add(
                document,
                [Chunk(name, name, text, 0, len(text))],
                encoder.near(topic, rng)[None],
                sparse=[encoder.sparse(text)] if encoder.whole else (),
                multi_vectors=[stored] if stored is not None else (),
            )
        builder.publish()


async def ask(root: Path, encoder: SyntheticEmbedder, queries: int, **fields: Any) -> list[float]:
    """Milliseconds per query, sequentially."""
    # The part of the embedder's client that the service uses.
    service = VectorstoreService([IndexRoot(root, "default")], cast("EmbedderClient", encoder))
    sentences = [line for text in passages() for line in text.split(". ") if 30 < len(line) < 120]
    chosen = random.Random(5).sample(sentences, min(queries + 10, len(sentences)))
    times: list[float] = []
    async with service.running():
        assert service.not_ready_reason() is None, service.not_ready_reason()
        for sentence in chosen:
            (found,) = await service.search([SearchInstance(input=sentence, **fields)], CallContext.start(30))
            times.append(found.timings_ms["search"])
    return times[10:]


SEARCHES: dict[str, dict[str, Any]] = {
    "full hybrid": {},
    "with a filter that lets a tenth through": {"filters": {"part": 3}},
    "with a filter that lets nine tenths through": {"filters": {"part": {"$lt": 9}}},
    "with diversity, neighbours and reasons": {"diversity": 0.3, "neighbours": 1, "explain": True},
    "BM25 alone": {"mode": "lexical"},
    "vectors alone": {"mode": "dense"},
}


def building(kind: str, folder: str, count: int) -> dict[str, float]:
    """Builds an index. Returns the size of each of its parts in bytes per chunk, and the memory in MiB."""
    build(Path(folder), count, SyntheticEmbedder.of(kind))
    (version,) = (path for path in (Path(folder) / "default").iterdir() if path.is_dir())
    sizes: dict[str, float] = {}
    for path in sorted(version.rglob("*")):
        if path.is_file():
            part = path.relative_to(version).parts[0]
            sizes[part] = sizes.get(part, 0) + path.stat().st_size / count
    return {**sizes, BUILDING: peak_mib()}


def searching(kind: str, folder: str, queries: int) -> tuple[dict[str, list[float]], float]:
    """Search → milliseconds of each query, and the memory in MiB."""
    encoder = SyntheticEmbedder.of(kind)
    times = {name: asyncio.run(ask(Path(folder), encoder, queries, **fields)) for name, fields in SEARCHES.items()}
    return times, peak_mib()


def measure(options: Options) -> list[str]:
    """Tables of times, and of sizes."""
    count, queries = (2_000, 20) if options.quick else (100_000, 100)
    times: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, dict[str, float]] = {}
    with patch.dict(os.environ, OPENBLAS_NUM_THREADS="1"):
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                sizes[kind] = in_a_process(building, kind, folder, count)
                times[kind], sizes[kind][SERVING] = in_a_process(searching, kind, folder, queries)
    rows = []
    for search in SEARCHES:
        row = {f"{count:,} chunks, milliseconds": search}
        for kind in KINDS:
            row |= {f"{kind} p{share}": f"{np.percentile(times[kind][search], share):.1f}" for share in (50, 90)}
        rows.append(row)
    parts = [
        {"bytes per chunk": part, **{kind: f"{sizes[kind].get(part, 0):,.0f}" for kind in KINDS}}
        for part in sizes["whole"]
    ]
    return [table(rows), table(parts)]


def peak_mib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
