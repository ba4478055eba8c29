"""Generates questions from documents, for an index without its own set of questions.

A question is a random half of the content words of a random sentence; its document is the answer (an inverse cloze
task). Such questions compare settings and reveal a broken index, but they are easier than real questions, whose words
differ from the documents'.

Source: the task of Lee, Chang and Toutanova, "Latent retrieval for weakly supervised open domain question answering"
(2019), with words left out.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Sequence

from evaluation.datasets import Dataset, Question
from evaluation.errors import EvaluationError
from text_analysis.words import COMPOUND
from vectorstore.wire import Passage

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_FEWEST_WORDS = 6
_CONTENT_WORD_CHARS = 4
"""Shorter words, except numbers, are mostly function words in languages written with spaces."""


def make(documents: Iterable[tuple[str, str]], *, count: int, seed: int) -> Dataset:
    """At most `count` questions about `documents` (id, text), at most one per document.

    Deterministic, and independent of the order of the documents.

    Raises:
        EvaluationError: no document has a sentence with six content words.
    """
    texts = {document: question for document, text in documents if (question := _question(document, text, seed))}
    if not texts:
        raise EvaluationError("No document has a sentence long enough for a question. Give --questions.")
    draw = random.Random(seed)  # noqa: S311 - a sample, no secret
    chosen = draw.sample(sorted(texts), min(count, len(texts)))
    questions = tuple(
        Question(id=document, text=texts[document], relevant={document: 1}, answerable=True)
        for document in sorted(chosen)
    )
    content = "\0".join(f"{question.id}\0{question.text}" for question in questions)
    return Dataset(
        name="generated",
        questions=questions,
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        name_of=_by_document_id,
    )


def content_words(sentence: str) -> list[str]:
    """The content words of a sentence that is long enough for a question; empty for a shorter one."""
    words = [
        word
        for word in COMPOUND.findall(sentence)
        if len(word) >= _CONTENT_WORD_CHARS or word.isdigit() or not word.isascii()
    ]
    return words if len(words) >= _FEWEST_WORDS else []


def half_of(words: Sequence[str], draw: random.Random) -> str:
    """A random half of the words, in order."""
    kept = sorted(draw.sample(range(len(words)), (len(words) + 1) // 2))
    return " ".join(words[place] for place in kept)


def _question(document: str, text: str, seed: int) -> str | None:
    draw = random.Random(f"{seed}\0{document}")  # noqa: S311
    sentences = [words for sentence in _SENTENCE.split(text) if (words := content_words(sentence))]
    return half_of(draw.choice(sentences), draw) if sentences else None


def _by_document_id(passage: Passage, question: Question) -> str:
    return passage.document_id
