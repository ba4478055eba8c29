"""Metrics of rankings, answers and refusals."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ir_measures
import numpy as np
import numpy.typing as npt
import regex

from text_analysis.scripts import UNSPACED

RANKING = {
    "nDCG@10": ir_measures.nDCG @ 10,
    "MRR@10": ir_measures.RR @ 10,
    "MAP@10": ir_measures.AP @ 10,
    "R@1": ir_measures.R @ 1,
    "R@5": ir_measures.R @ 5,
    "R@10": ir_measures.R @ 10,
    "R@20": ir_measures.R @ 20,
}
"""Name → measure. Computed with trec_eval's code, like most published figures."""

Floats = npt.NDArray[np.float64]

CURVE_POINTS = 200
"""Maximum number of stored points of a curve."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHARACTER = regex.compile(rf"([{UNSPACED}])", regex.V1)


def ranking(
    relevant: Mapping[str, Mapping[str, int]], rankings: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Measure → question → value.

    Args:
        relevant: question → document → grade.
        rankings: question → documents, best first. A question without documents scores 0.
    """
    # trec_eval breaks ties by name, so ranks become distinct scores.
    runs = {
        question: {document: float(-rank) for rank, document in enumerate(rankings.get(question, ()))}
        for question in relevant
    }
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(relevant, 0.0) for name in RANKING}
    names = {measure: name for name, measure in RANKING.items()}
    qrels = {question: dict(grades) for question, grades in relevant.items()}
    for found in ir_measures.iter_calc(list(RANKING.values()), qrels, {q: run for q, run in runs.items() if run}):
        values[names[found.measure]][found.query_id] = float(found.value)
    return values


def mean(values: Sequence[float] | npt.NDArray[Any]) -> float:
    """The mean; 0 without values."""
    return float(np.mean(values)) if len(values) else 0.0


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and repeated spaces.

    Each character of a script without spaces is a word.

    Sources: https://rajpurkar.github.io/SQuAD-explorer/ (evaluate-v2.0.py, normalize_answer); for scripts without
    spaces https://github.com/facebookresearch/MLQA (mlqa_evaluation_v1.py).
    """
    return " ".join(_ARTICLES.sub(" ", _CHARACTER.sub(r" \1 ", text.lower().translate(_PUNCTUATION))).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 if the normalised answer equals a normalised gold answer, else 0."""
    return float(any(normalised(answer) == normalised(one) for one in gold))


def f1(answer: str, gold: Sequence[str]) -> float:
    """The best F1 between the normalised words of the answer and of a gold answer.

    Source: https://rajpurkar.github.io/SQuAD-explorer/ (evaluate-v2.0.py, compute_f1)
    """
    return max((_f1(normalised(answer).split(), normalised(one).split()) for one in gold), default=0.0)


def _f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    if not answer or not gold:
        return float(list(answer) == list(gold))
    same = (Counter(answer) & Counter(gold)).total()
    return 2 * same / (len(answer) + len(gold))


def recall(answer: str, gold: Sequence[str]) -> float:
    """The largest share of a gold answer's normalised words that the answer has.

    For long answers, whose wording F1 punishes: of the measures without a judge it agrees best with people.

    Source: Adlakha et al., Evaluating Correctness and Faithfulness of Instruction-Following Models for Question
    Answering (https://arxiv.org/abs/2307.16877)
    """
    words = Counter(normalised(answer).split())
    return max((_recall(words, Counter(normalised(one).split())) for one in gold), default=0.0)


def _recall(words: Counter[str], gold: Counter[str]) -> float:
    return (words & gold).total() / gold.total() if gold else 0.0


def contains(answer: str, gold: Sequence[str]) -> float:
    """1 if the normalised answer contains a normalised gold answer word for word, else 0."""
    text = f" {normalised(answer)} "
    return float(any(f" {normalised(one)} " in text for one in gold if normalised(one)))


@dataclass(frozen=True, slots=True)
class Curve:
    """Risk-coverage curve: how the risk grows when more questions, in the order of their scores, are answered."""

    coverage: Floats
    """Share of questions answered, ascending to 1."""
    risk: Floats
    """Mean loss over the answered questions."""
    aurc: float
    """Area under the curve: the mean risk over all coverages. Lower is better."""
    best_aurc: float
    """Area under the curve of an ideal score, which ranks questions by their loss."""

    def thinned(self) -> dict[str, Any]:
        """The fields of `results.RiskCurve`, with at most `CURVE_POINTS` points, including the last."""
        places = np.unique(np.linspace(0, len(self.risk) - 1, min(CURVE_POINTS, len(self.risk))).astype(int))
        points = {"coverage": self.coverage[places].tolist(), "risk": self.risk[places].tolist()}
        return {"aurc": self.aurc, "best_aurc": self.best_aurc, **points}


def risk_coverage(scores: Sequence[float], losses: Sequence[float] | npt.NDArray[Any]) -> Curve:
    """The risk-coverage curve of a score. Questions with equal scores count with their mean loss.

    Source: Geifman and El-Yaniv, "Selective classification for deep neural networks" (2017); AURC as in Geifman, Uziel
    and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers" (2019).

    Args:
        scores: one per question; questions with higher scores are answered first.
        losses: one per question, 0 … 1, incurred by answering it.

    Raises:
        ValueError: there are no scores, or the lengths differ.
    """
    if not len(scores) or len(scores) != len(losses):
        raise ValueError(f"{len(scores)} scores for {len(losses)} losses")
    values, costs = np.asarray(scores, np.float64), np.asarray(losses, np.float64)
    risk, best = _risks(values, costs), _risks(-costs, costs)
    coverage = np.arange(1, len(scores) + 1) / len(scores)
    return Curve(coverage, risk, float(risk.mean()), float(best.mean()))


def _risks(scores: Floats, losses: Floats) -> Floats:
    """Mean loss of the 1, 2, … questions with the highest scores."""
    order = np.argsort(-scores, kind="stable")
    _, first, counts = np.unique(-scores[order], return_index=True, return_counts=True)
    tied = np.repeat(np.add.reduceat(losses[order], first) / counts, counts)
    risks: Floats = np.cumsum(tied) / np.arange(1, len(scores) + 1)
    return risks


@dataclass(frozen=True, slots=True)
class Refusals:
    """How well a score separates answerable from unanswerable questions."""

    auroc: float
    """Probability that an answerable question scores higher than an unanswerable one."""
    refused: dict[str, float]
    """Share of answerable questions answered, such as "80%" → share of unanswerable ones refused at that threshold."""
    held_out_answered: float
    """Share of answerable questions answered, at the 80 % threshold of the other half of the questions."""
    held_out_refused: float
    """Share of unanswerable questions refused at that threshold."""


def refusals(scores: Sequence[float], answerable: Sequence[bool], seed: int) -> Refusals:
    """How well a score separates the questions. Raises ValueError unless both kinds occur.

    The held-out figures are means over two random halves (by `seed`), each with the threshold of the other.
    """
    values, labels = np.asarray(scores, np.float64), np.asarray(answerable, bool)
    good, bad = np.sort(values[labels]), np.sort(values[~labels])
    if not len(good) or not len(bad):
        raise ValueError("questions with and without answers are needed")
    refused = {f"{share}%": float((bad < _threshold(good, share / 100)).mean()) for share in (95, 90, 80, 70, 50)}
    return Refusals(_auroc(good, bad), refused, *_held_out(values, labels, seed))


def _auroc(good: Floats, bad: Floats) -> float:
    """Probability that a value of `good` is greater than one of `bad`; ties count half. `bad` ascends."""
    below = np.searchsorted(bad, good, side="left") + np.searchsorted(bad, good, side="right")
    return float(below.sum() / 2 / len(good) / len(bad))


def _held_out(scores: Floats, answerable: npt.NDArray[np.bool_], seed: int) -> tuple[float, float]:
    """`Refusals.held_out_answered` and `held_out_refused`; nan if a half lacks questions of one kind."""
    in_first = np.zeros(len(scores), bool)
    generator = np.random.default_rng(seed)
    for label in (True, False):  # each half gets half of each kind
        members = generator.permutation(np.flatnonzero(answerable == label))
        in_first[members[: len(members) // 2]] = True
    answered, refused = [], []
    for own in (in_first, ~in_first):
        calibration, good, bad = scores[own & answerable], scores[~own & answerable], scores[~own & ~answerable]
        if len(calibration) and len(good) and len(bad):
            threshold = _threshold(np.sort(calibration), 0.8)
            answered.append((good >= threshold).mean())
            refused.append((bad < threshold).mean())
    return (float(np.mean(answered)), float(np.mean(refused))) if answered else (math.nan, math.nan)


def _threshold(ascending: Floats, share: float) -> float:
    """The highest threshold that answers at least `share` of these scores."""
    return float(ascending[int(np.floor(len(ascending) * (1 - share) + 1e-9))])
