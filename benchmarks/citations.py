"""Processor time of the check of an answer against its sources: sentences, evidence, quotes, markers.

Sources are passages of this project's documentation. Answers are sentences of these passages without every seventh
word; every other sentence has a source number, often a wrong one, and a third come from other passages. First: passages
new to the cache; again: cached passages. Processor time does not depend on other programs; one check runs on one core.
"""

from __future__ import annotations

import random
import time
from itertools import cycle
from pathlib import Path

import numpy as np

from text_analysis.sentences import sentence_spans
from transformer.alignment import Aligner
from transformer.citations import Citer
from transformer.wire import Source
from vectorstore.wire import Span

DOCUMENTS = Path(__file__).parent.parent / "docs"
PASSAGE_CHARS = 800
SHAPES = ((2, 1), (4, 3), (10, 8), (20, 30))
"""Sources and sentences of an answer."""
ROUNDS = 60


def passages() -> list[Source]:
    """Passages of the documentation."""
    found = []
    for number, file in enumerate(sorted(DOCUMENTS.rglob("*.md"))):
        text = file.read_text(encoding="utf-8")
        for start in range(0, len(text), PASSAGE_CHARS):
            part = text[start : start + PASSAGE_CHARS]
            found.append(
                Source(
                    number=1,
                    text=part,
                    score=1 / (len(found) + 1),
                    chunk_id=f"{number}-{start}",
                    document_id=file.name,
                    title=file.stem,
                    span=Span(start=start, end=start + len(part)),
                    index_version="v",
                    similarity=0.5,
                    lexical_score=1,
                    support=1,
                )
            )
    return found


def answer(sources: list[Source], others: list[Source], sentences: int, draw: random.Random) -> str:
    """An answer of altered sentences, most of them from the sources."""
    told = []
    for number, pool in zip(range(sentences), cycle((sources, sources, others)), strict=False):
        text = draw.choice(pool).text
        start, end = draw.choice(sentence_spans(text))
        words = [word for place, word in enumerate(text[start:end].split(), 1) if place % 7]
        told.append(" ".join(words).rstrip(".") + (f" [{draw.randint(1, len(sources) + 1)}]." if number % 2 else "."))
    return " ".join(told)


def measure() -> list[str]:
    """The table, as lines of Markdown."""
    draw = random.Random(0)  # the same answers each time
    found = passages()
    lines = [
        "| sources | sentences | first: p50 ms | p99 ms | again: p50 ms | p99 ms |",
        "|---|---|---|---|---|---|",
    ]
    citer = Citer(Aligner(), quote_lead="")
    # Warm the cache of stems.
    citer.cite("Ready.", "Ready?", found)
    for shown, sentences in SHAPES:
        first: list[float] = []
        again: list[float] = []
        for turn in range(ROUNDS):
            # Another title makes the passage new to the cache.
            sources = [
                source.model_copy(update={"number": number, "title": f"Turn {turn} of {shown}"})
                for number, source in enumerate(draw.sample(found, shown), 1)
            ]
            text = answer(sources, found, sentences, draw)
            for took in (first, again):
                began = time.thread_time()
                citer.cite(text, "What does the documentation say?", sources)
                took.append((time.thread_time() - began) * 1000)
        figures = [np.percentile(took, share) for took in (first, again) for share in (50, 99)]
        lines.append(f"| {shown} | {sentences} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |")
    return lines


if __name__ == "__main__":
    print("\n".join(measure()))
