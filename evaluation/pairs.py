"""Questions made from the documents themselves, where nobody has written any.

From each document one sentence is drawn; half of its telling words, in their order, are the question, and the document
is its answer (an inverse cloze task). This measures whether what is in the index can be found again by a part of its
own words: it compares settings, and shows a broken index at once. It does not tell how people's own questions fare:
those use other words, which these never do. Its figures are too good by that much.

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
from vectorstore.wire import Passage

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
_FEWEST_WORDS = 6
_TELLING_CHARS = 4
"""Words of fewer characters, but numbers, are mostly function words in languages written with blanks."""


def make(documents: Iterable[tuple[str, str]], *, count: int, seed: int) -> Dataset:
    """At most `count` questions about documents, one each.

    The same documents, count and seed give the same questions, in whatever order the documents come.

    Args:
        documents: (id, text).
        count: how many documents to draw.
        seed: of every choice.

    Raises:
        EvaluationError: no document has a sentence of six telling words.
    """
    made = {document: question for document, text in documents if (question := _question(document, text, seed))}
    if not made:
        raise EvaluationError("No document holds a sentence long enough to make a question of. Give --questions.")
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
        if len(words := [word for word in _WORD.findall(sentence) if _telling(word)]) >= _FEWEST_WORDS
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
