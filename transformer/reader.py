"""Finds the one to three sentences of the passages that answer a question. No model runs.

A *unit* is a sentence, list item, table row or code block. Units are ranked by the question's words in and around them,
weighted by inverse document frequency, and by the similarity of their tokens to the question's if the index has
multi-vectors. Headings and questions never answer. A sentence that ends with a colon is quoted with the list or code
that follows. `python -m evaluation.reader` measures the quality.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from text_analysis.question_words import asks_number
from text_analysis.sentences import BULLET, NUMBERED
from transformer.alignment import Evidence, Matrix, PassageIndexes, SentenceMatrix

Similarity = Sequence[Sequence[float]]
"""For each passage, the similarity of its sentences to the question; empty where it is unknown."""

MAX_UNITS = 3
_RANK_PENALTY = 0.03
"""Penalty for each rank of the unit's passage."""
_SIMILARITY_SCORE = 0.2
"""Score of one standard deviation of similarity, times its correlation with the scores from words."""
_MIN_DEVIATION = 1e-4
"""Values with a smaller standard deviation count as equal."""
_NUMBER_SCORE = 0.15
"""Score of a number that is not in the question, if the question asks for a number."""
_MIN_RELATIVE_SCORE = 0.5
"""Minimum score of a second or third unit, relative to the best."""
_ANNOUNCED_CHARS = 600
"""Maximum length of a list, table or code block that is quoted with the sentence that announces it."""

_BULLET = re.compile(rf"{BULLET}|{NUMBERED}")
_FENCES = ("```", "~~~")
_LONG_CODE = 6
"""Number of line breaks from which only the best line of a code block is quoted."""
_LINE = re.compile(r"[^\s][^\n]*(?<=\S)")
_ANNOUNCES = (":", "：")
_ASKS = ("?", "？", "؟")
_ANNOUNCED = re.compile(rf"[ \t]*(?:{BULLET}|{NUMBERED}|\||```|~~~)")
"""Start of a list item, quotation, table row or code block."""


class Reader:
    """Finds the sentences that answer a question. Thread-safe."""

    def __init__(self, passages: PassageIndexes) -> None:
        """Create a reader. `passages`: the cache of an `Aligner`, which reads the same passages."""
        self._passages = passages

    def read(self, question: str, passages: Sequence[tuple[str, str]], similarity: Similarity = ()) -> list[Evidence]:
        """The unit that best answers the question, and up to two more with half of its score.

        Args:
            question: in a conversation, only the last question.
            passages: text and headings of each, most relevant first.
            similarity: the values of `vectorstore.wire.Prediction.sentence_similarity`, one list per passage.

        Returns:
            The units in reading order; empty if none is related to the question. They do not overlap and contain no
            headings. `support` is comparable between units, not between questions: `transformer.answerability`
            estimates whether the passages answer at all.
        """
        ranked = self.rank(question, passages, similarity, limit=MAX_UNITS)
        best = max((unit.support for unit in ranked), default=0)
        near = [unit for unit in ranked if unit.support >= _MIN_RELATIVE_SCORE * best]
        return sorted(near, key=lambda unit: (unit.passage, unit.start))

    def rank(
        self, question: str, passages: Sequence[tuple[str, str]], similarity: Similarity = (), *, limit: int
    ) -> list[Evidence]:
        """The `limit` units that best answer the question, best first. Arguments: as for `read`."""
        asked = self._passages.analyzer.analyse(question)
        matrix = SentenceMatrix([], asked, [self._passages.get(*passage) for passage in passages])
        if not matrix.asked or not matrix.units:
            return []
        spans = [matrix.spans(passage) for passage in range(len(passages))]
        ends = [text[end - 1] for (text, _), units in zip(passages, spans, strict=True) for _, end in units]
        scores = _scores(matrix, np.isin(ends, _ANNOUNCES), similarity, asks_number(question))
        repeated = question.strip().strip("".join(_ASKS)).casefold()
        found: list[Evidence] = []
        texts: set[str] = set()
        for unit in np.argsort(-(scores - _RANK_PENALTY * matrix.passage_of), kind="stable"):
            if scores[unit] <= 0 or len(found) == limit:
                break
            span = matrix.evidence_at(int(unit), float(scores[unit]))
            text = passages[span.passage][0]
            start, end = self._best_line(text, span, matrix) or (span.start, span.end)
            end = _end_of_announced(text, spans[span.passage], start, end)
            start = bullet.end() if (bullet := _BULLET.match(text, start, end)) else start
            quote = text[start:end]
            if quote.endswith((*_ASKS, *_ANNOUNCES)) or any(quote in text or text in quote for text in texts):
                continue
            if quote.endswith(_FENCES) and repeated in quote.casefold():  # an example that asks the same question
                continue
            if any(other.passage == span.passage and start < other.end and other.start < end for other in found):
                continue
            texts.add(quote)
            found.append(Evidence(span.passage, start, end, span.support))
        return found

    def _best_line(self, text: str, unit: Evidence, matrix: SentenceMatrix) -> tuple[int, int] | None:
        """The line of a long code block that has most of the question's words; None for other units."""
        code = text[unit.start : unit.end]
        if not (code.startswith(_FENCES) or code.endswith(_FENCES)) or code.count("\n") < _LONG_CODE:
            return None
        best, found = 0.0, None
        for line in _LINE.finditer(code):
            terms = self._passages.analyzer.analyse(line.group()).terms
            matches = math.fsum(
                weight for term, weight in zip(matrix.asked, matrix.weights, strict=False) if term in terms
            )
            if matches > best and not line.group().startswith(_FENCES):
                best, found = matches, (unit.start + line.start(), unit.start + line.end())
        return found


def _scores(
    matrix: SentenceMatrix, announces: npt.NDArray[np.bool_], similarity: Similarity, number_asked: bool
) -> Matrix:
    """float32[units]: how well each unit answers, 0 … 1; 0 if it only repeats the question and announces nothing."""
    matches = matrix.matches[: len(matrix.asked)]
    scores = (matrix.weights @ matches / matrix.weights.sum() + matrix.context) / 2
    known = np.full(matrix.units, np.nan)
    for index, (passage, values) in enumerate(zip(matrix.passages, similarity, strict=False)):
        if passage.positions and passage.positions[-1] < len(values):
            known[matrix.passage_of == index] = np.array(values)[list(passage.positions)]
    scores = scores + _SIMILARITY_SCORE * _correlated(scores, known)
    if number_asked:
        scores = scores + _NUMBER_SCORE * (matrix.new_numbers() & (scores > 0))
    says_more = matrix.sizes > (matches == 1).sum(axis=0)
    return np.where(says_more | announces, np.clip(scores, 0, 1), 0).astype(np.float32)


def _correlated(scores: Matrix, known: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64[units]: similarities (nan: unknown) in standard deviations, times their correlation with the scores.

    The range of similarities depends on the embedder, and for a language that it does not know they are noise. Negative
    correlations count as 0. If no unit has a word of the question, only the similarity counts.
    """
    places = np.flatnonzero(~np.isnan(known))
    found = np.zeros(len(known))
    if len(places) and known[places].std() > _MIN_DEVIATION:
        found[places] = (known[places] - known[places].mean()) / known[places].std()
        spread = scores[places].std()
        if spread > _MIN_DEVIATION:
            found *= max(0.0, float(np.mean(found[places] * (scores[places] - scores[places].mean()) / spread)))
    return found


def _end_of_announced(text: str, spans: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """End of the list, table or code block that a unit announces; the unit's own end if it announces nothing."""
    if not text[start:end].endswith(_ANNOUNCES):
        return end
    reached = end
    for following, stop in spans:
        if following >= reached:
            listed = _ANNOUNCED.match(text, following)
            if stop - end > _ANNOUNCED_CHARS or not (listed or reached == end):
                break
            reached = stop
            if not listed:
                break
    return reached
