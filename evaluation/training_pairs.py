"""Generates training pairs for an embedder from documents: a question and the passage that answers it.

There are two kinds of questions:

- the headings of a section;
- half of the content words of a sentence, in order (see `evaluation.pairs`). The passage is the section without that
  sentence, so that the embedder learns the section's subject, not its words.

Negatives are passages of other documents. `hard_negatives` excludes passages that may also answer the question: those
nearly as similar to it as the right passage, and those with the same content.

Source: Lee, Chang and Toutanova, "Latent retrieval for weakly supervised open domain question answering" (2019); the
margin as in Moreira et al., "NV-Retriever: improving text embedding models with effective hard-negative mining" (2024),
whose best threshold is 95 % of the positive's score.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.pairs import content_words, half_of
from text_analysis.words import COMPOUND

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n{2,}")
_SHORTEST_PASSAGE_CHARS = 80
"""Shorter sections are too unspecific."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A question and a passage that answers it."""

    question: str
    passage: str
    document: str
    """Id of the section."""


def make(documents: Iterable[tuple[str, str, str]], *, sentences: int, seed: int) -> list[TrainingPair]:
    """One pair from the headings of each section, and up to `sentences` pairs from its sentences.

    Deterministic, and independent of the order of the documents. Very short sections are skipped.

    Args:
        documents: id, title with headings, and text of each section.
        sentences: maximum number of sentences to draw per section.
        seed: seed of all random choices.
    """
    pairs: list[TrainingPair] = []
    for document, title, text in sorted(documents):
        if len(text) < _SHORTEST_PASSAGE_CHARS:
            continue
        headings = " ".join(COMPOUND.findall(title))
        if headings:
            pairs.append(TrainingPair(headings, text, document))
        draw = random.Random(f"{seed}\0{document}")  # noqa: S311 - a sample, no secret
        clozes = [pair for sentence in _SENTENCE.split(text) if (pair := _cloze(document, title, text, sentence, draw))]
        pairs += draw.sample(clozes, min(sentences, len(clozes)))
    return pairs


def hard_negatives(
    questions: Vectors,
    passages: Vectors,
    documents: Vectors,
    own: Sequence[int],
    *,
    margin: float = 0.95,
    same: float = 0.8,
) -> npt.NDArray[np.int64]:
    """For each pair, the row of the document nearest to the question that does not answer it; -1 if there is none.

    Excludes the pair's own document, documents similar to it, and documents nearly as similar to the question as the
    right passage, because they may answer it.

    Args:
        questions: float32[n, dim], rows L2-normalised.
        passages: float32[n, dim], the right passages.
        documents: float32[m, dim].
        own: row of each pair's document.
        margin: the cosine of a negative is below this share of the right passage's cosine.
        same: minimum cosine of documents that count as the same content.
    """
    nearness = questions @ documents.T
    right = np.einsum("nd,nd->n", questions, passages)
    alike = documents[np.asarray(own)] @ documents.T
    allowed = (alike < same) & (nearness < margin * right[:, None])
    allowed[np.arange(len(own)), own] = False
    chosen = np.where(allowed, nearness, -np.inf).argmax(axis=1)
    return np.where(allowed.any(axis=1), chosen, -1)


def batches(touched: Sequence[tuple[int, ...]], *, size: int, seed: int) -> list[list[int]]:
    """Shuffles rows into batches of at most `size`, in which no two rows share a document.

    In a batch, the passages of all other rows are negatives, so a shared document would be a false negative. `touched`:
    for each row the documents of its positive and negative passages, and documents with the same content.
    """
    waiting = list(range(len(touched)))
    random.Random(seed).shuffle(waiting)  # noqa: S311
    found: list[list[int]] = []
    while waiting:
        batch: list[int] = []
        left: list[int] = []
        taken: set[int] = set()
        for row in waiting:
            fits = len(batch) < size and taken.isdisjoint(touched[row])
            (batch if fits else left).append(row)
            taken.update(touched[row] if fits else ())
        found.append(batch)
        waiting = left
    return found


def _cloze(document: str, title: str, text: str, sentence: str, draw: random.Random) -> TrainingPair | None:
    words = content_words(sentence)
    rest = text.replace(sentence, " ", 1).strip()
    if not words or len(rest) < _SHORTEST_PASSAGE_CHARS:
        return None
    return TrainingPair(half_of(words, draw), f"{title}\n{rest}", document)
