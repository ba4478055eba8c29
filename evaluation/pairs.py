"""Questions generated from the documents, for an index without questions of its own.

Half of the content words of a random sentence, in order, are the question; its document is the answer (an inverse cloze
task). This compares settings and shows a broken index at once. Figures are better than with real questions, which use
other words than the documents.

Source: the task of Lee, Chang and Toutanova, "Latent retrieval for weakly supervised open domain question answering"
(2019), with words left out.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable

from evaluation.datasets import Dataset, Question
from evaluation.errors import EvaluationError
from text_analysis.words import COMPOUND
from vectorstore.wire import Passage

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_FEWEST_WORDS = 6
_TELLING_CHARS = 4
"""Shorter words, except numbers, are mostly function words in languages written with spaces."""


def make(documents: Iterable[tuple[str, str]], *, count: int, seed: int) -> Dataset:
    """At most `count` questions about documents, one each.

    Deterministic for the same arguments; the order of the documents does not matter.

    Args:
        documents: (id, text).
        count: most questions.
        seed: of all random choices.

    Raises:
        EvaluationError: no document has a sentence with six content words.
    """
    made = {document: question for document, text in documents if (question := _question(document, text, seed))}
    if not made:
        raise EvaluationError("No document has a sentence long enough for a question. Give --questions.")
    draw = random.Random(seed)  # noqa: S311 - a sample, no secret
    chosen = draw.sample(sorted(made), min(count, len(made)))
    questions = tuple(
        Question(id=document, text=made[document], relevant={document: 1}, answerable=True)
        for document in sorted(chosen)
    )
    told = "\0".join(f"{question.id}\0{question.text}" for question in questions)
    return Dataset(
        name="generated",
        questions=questions,
        sha256=hashlib.sha256(told.encode()).hexdigest(),
        name_of=_by_document_id,
    )


def _question(document: str, text: str, seed: int) -> str | None:
    draw = random.Random(f"{seed}\0{document}")  # noqa: S311
    sentences = [
        words
        for sentence in _SENTENCE.split(text)
        if len(words := [word for word in COMPOUND.findall(sentence) if _telling(word)]) >= _FEWEST_WORDS
    ]
    if not sentences:
        return None
    words = draw.choice(sentences)
    kept = sorted(draw.sample(range(len(words)), (len(words) + 1) // 2))
    return " ".join(words[place] for place in kept)


def _telling(word: str) -> bool:
    return len(word) >= _TELLING_CHARS or word.isdigit() or not word.isascii()


def _by_document_id(passage: Passage, question: Question) -> str:
    return passage.document_id
