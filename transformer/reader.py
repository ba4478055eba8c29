"""Reads the answer to a question out of passages: one to three of their sentences, verbatim. No model runs.

A *unit* is a sentence, list item, table row or code block. Units are ranked by the question's words in and around them,
weighted by inverse document frequency: `python -m evaluation.reader` measures this. Headings and questions are no
answers. A sentence that ends with a colon is quoted with the list or code that it announces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transformer.alignment import Evidence, PassageIndexes, SentenceMatrix

MAX_UNITS = 3
_LATER = 0.03
"""Penalty per more relevant passage."""
_CLOSE = 0.7
"""Least score of a further unit, as a share of the best one's."""
_ANNOUNCED_CHARS = 600
"""Most characters that are quoted with a sentence that announces them."""

_BULLET = re.compile(r"(?:[-*+•‣◦·–>]|\(?\d{1,3}[.)])[ \t]+")
_ANNOUNCES = (":", "：")
_ASKS = ("?", "？", "؟")
_ANNOUNCED = re.compile(r"[ \t]*(?:[-*+•‣◦·–>][ \t]|\(?\d{1,3}[.)][ \t]|\||```|~~~)")
"""Start of a list item, quotation, table row or code block."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the passages say in answer to a question."""

    spans: tuple[Evidence, ...]
    """Up to three units, in the order of the passages and their texts.

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
        """The one to three units that best answer the question: further ones if they are nearly as good.

        Args:
            question: of a conversation, only the last question.
            passages: text and headings of each, most relevant first.
        """
        ranked = self.rank(question, passages, limit=MAX_UNITS)
        if not ranked:
            return NOTHING
        best = max(unit.support for unit in ranked)
        near = [unit for unit in ranked if unit.support >= _CLOSE * best]
        return Reading(tuple(sorted(near, key=lambda unit: (unit.passage, unit.start))), best)

    def rank(self, question: str, passages: Sequence[tuple[str, str]], *, limit: int) -> list[Evidence]:
        """The `limit` units that best answer the question, best first. Arguments: as for `read`."""
        asked = self._passages.analyzer.analyse(question)
        matrix = SentenceMatrix([], asked, [self._passages.get(*passage) for passage in passages])
        scores = _scores(
            matrix,
            np.array(
                [
                    text[end - 1] in _ANNOUNCES
                    for place, (text, _) in enumerate(passages)
                    for _, end in matrix.spans(place)
                ],
                np.bool_,
            ),
        )
        found: list[Evidence] = []
        texts: set[str] = set()
        for unit in np.argsort(-(scores - _LATER * matrix.owner), kind="stable"):
            if scores[unit] <= 0 or len(found) == limit:
                break
            span = matrix.found(int(unit), float(scores[unit]))
            text = passages[span.passage][0]
            end = _end_of_announced(text, matrix.spans(span.passage), span)
            start = bullet.end() if (bullet := _BULLET.match(text, span.start, end)) else span.start
            quote = text[start:end]
            if quote.endswith((*_ASKS, *_ANNOUNCES)) or quote in texts:
                continue
            if any(other.passage == span.passage and start < other.end and other.start < end for other in found):
                continue
            texts.add(quote)
            found.append(Evidence(span.passage, start, end, span.support))
        return found


def _scores(matrix: SentenceMatrix, announces: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """float32[units]: how well each answers, 0 … 1; 0 if it has only words of the question and announces nothing."""
    if not matrix.asked or not matrix.units:
        return np.zeros(matrix.units, np.float32)
    held = matrix.held[: len(matrix.asked)]
    own = matrix.weights @ held / matrix.weights.sum()
    says_more = matrix.sizes > (held == 1).sum(axis=0)
    return np.where(says_more | announces, np.minimum(1, (own + matrix.context) / 2), 0).astype(np.float32)


def _end_of_announced(text: str, spans: Sequence[tuple[int, int]], unit: Evidence) -> int:
    """Where the list, table or code ends that the unit announces; the unit's own end if it announces nothing."""
    end = unit.end
    if not text[unit.start : end].endswith(_ANNOUNCES):
        return end
    for start, stop in spans:
        if start >= end:
            if stop - unit.end > _ANNOUNCED_CHARS or (end > unit.end and not _ANNOUNCED.match(text, start)):
                break
            end = stop
            if not _ANNOUNCED.match(text, start):
                break
    return end
