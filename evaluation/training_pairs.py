"""Pairs of a question and a passage that answers it, made from documents, to train an embedder with.

Nobody has to write questions. Two kinds are made of what is there:

- the headings above a section ask for the section;
- half of the telling words of a sentence, in their order, ask for the section without that sentence (an inverse cloze
  task; see `evaluation.pairs`). The sentence is taken out so that the embedder learns what the section is about, and
  not to find the same words again.

A pair is always a positive: its passage is the section that the question was made of. Negatives are other documents'
passages. What is nearly as near as the right passage, or says the same as its document, may answer the question as well
and is none: `hard_negatives` leaves it out.

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

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n{2,}")
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
_FEWEST_WORDS = 6
_TELLING_CHARS = 4
_SHORTEST_PASSAGE_CHARS = 80
"""What is left of a section must still say what it is about."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A question and a passage that answers it."""

    question: str
    passage: str
    document: str
    """Id of the section that both are of."""


def make(documents: Iterable[tuple[str, str, str]], *, sentences: int, seed: int) -> list[TrainingPair]:
    """One pair of each section's headings, and one of each of some of its sentences.

    The same documents, number and seed give the same pairs, in whatever order the documents come. A section of less
    than a sentence or two gives none.

    Args:
        documents: (id, title with the headings, text) of each section.
        sentences: how many sentences to draw of a section, at most.
        seed: of every choice.
    """
    pairs: list[TrainingPair] = []
    for document, title, text in sorted(documents):
        if len(text) < _SHORTEST_PASSAGE_CHARS:
            continue
        headings = " ".join(_WORD.findall(title))
        if headings:
            pairs.append(TrainingPair(headings, text, document))
        draw = random.Random(f"{seed}\0{document}")  # noqa: S311 - a sample, no secret
        made = [pair for sentence in _SENTENCE.split(text) if (pair := _cloze(document, title, text, sentence, draw))]
        pairs += draw.sample(made, min(sentences, len(made)))
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
    """Row of the nearest document that is certainly wrong, for each pair; -1 where there is none.

    Left out are the pair's own document, documents that say about the same as that one, and documents that are nearly
    as near to the question as the right passage: of these nobody knows whether they answer it.

    Args:
        questions: float32[n, dim], rows L2-normalised.
        passages: float32[n, dim], the right passage of each question.
        documents: float32[m, dim].
        own: row of each pair's document.
        margin: share of the right passage's cosine that a negative stays below.
        same: cosine from which on two documents say the same.
    """
    nearness = questions @ documents.T
    right = np.einsum("nd,nd->n", questions, passages)
    alike = documents[np.asarray(own)] @ documents.T
    allowed = (alike < same) & (nearness < margin * right[:, None])
    allowed[np.arange(len(own)), own] = False
    chosen = np.where(allowed, nearness, -np.inf).argmax(axis=1)
    return np.where(allowed.any(axis=1), chosen, -1)


def batches(touched: Sequence[tuple[int, ...]], *, size: int, seed: int) -> list[list[int]]:
    """Rows in batches of at most `size`, drawn with `seed`; no document is touched by two rows of a batch.

    Within a batch the passages of all other rows are negatives too: a document of two rows would be one wrongly.

    Args:
        touched: of each row the documents that its passages are from, right and wrong, and those that say the same.
        size: rows of a batch, at most.
        seed: of the order.
    """
    waiting = list(range(len(touched)))
    random.Random(seed).shuffle(waiting)  # noqa: S311
    made: list[list[int]] = []
    while waiting:
        batch: list[int] = []
        taken: set[int] = set()
        for row in waiting:
            if len(batch) < size and taken.isdisjoint(touched[row]):
                batch.append(row)
                taken.update(touched[row])
        made.append(batch)
        chosen = set(batch)
        waiting = [row for row in waiting if row not in chosen]
    return made


def _cloze(document: str, title: str, text: str, sentence: str, draw: random.Random) -> TrainingPair | None:
    words = [word for word in _WORD.findall(sentence) if len(word) >= _TELLING_CHARS or word.isdigit()]
    rest = text.replace(sentence, " ", 1).strip()
    if len(words) < _FEWEST_WORDS or len(rest) < _SHORTEST_PASSAGE_CHARS:
        return None
    kept = sorted(draw.sample(range(len(words)), (len(words) + 1) // 2))
    return TrainingPair(" ".join(words[place] for place in kept), f"{title}\n{rest}", document)
