"""Reads the answer to a question out of passages: one to three of their sentences, verbatim. No model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transformer.alignment import Evidence, PassageIndexes, SentenceMatrix

MAX_UNITS = 3
_LATER = 0.03
"""Penalty per more relevant passage."""
_CLOSE = 0.8
"""Least score of a further unit, as a share of the best one's."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the passages say in answer to a question."""

    spans: tuple[Evidence, ...]
    """Up to three sentences, list items, table rows or pieces of code, in the order of the passages and their texts.

    They do not overlap, and none is a heading. `support`: how well each answers. Empty if nothing has to do with the
    question.
    """
    score: float
    """How well the best of them answers, 0 … 1."""


NOTHING = Reading((), 0.0)


class Reader:
    """Finds the sentences that answer a question. Thread-safe."""

    def __init__(self, passages: PassageIndexes) -> None:
        """Create a reader. `passages`: the cache of an `Aligner`, which reads the same passages."""
        self._passages = passages

    def read(self, question: str, passages: Sequence[tuple[str, str]]) -> Reading:
        """The one to three sentences that best answer the question.

        Args:
            question: of a conversation, only the last question.
            passages: text and headings of each, most relevant first.
        """
        asked = self._passages.analyzer.analyse(question)
        matrix = SentenceMatrix([], asked, [self._passages.get(*passage) for passage in passages])
        if not matrix.asked or not matrix.units:
            return NOTHING
        held = matrix.held[: len(matrix.asked)]
        own = matrix.weights @ held / matrix.weights.sum()
        new = np.array([size for passage in matrix.passages for size in passage.sizes]) > (held == 1).sum(axis=0)
        scores = np.where(new, (own + matrix.context) / 2, 0)
        order = np.argsort(-(scores - _LATER * matrix.owner), kind="stable")[:MAX_UNITS]
        best = float(scores[order[0]])
        if best <= 0:
            return NOTHING
        chosen = sorted(int(unit) for unit in order if scores[unit] >= _CLOSE * best)
        return Reading(tuple(matrix.found(unit, float(scores[unit])) for unit in chosen), round(min(1.0, best), 3))
