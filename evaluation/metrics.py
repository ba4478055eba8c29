"""How good rankings, answers, refusals and citations are."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
import numpy.typing as npt

RANKING = {
    "nDCG@10": ir_measures.nDCG @ 10,
    "MRR@10": ir_measures.RR @ 10,
    "MAP@10": ir_measures.AP @ 10,
    "R@1": ir_measures.R @ 1,
    "R@5": ir_measures.R @ 5,
    "R@10": ir_measures.R @ 10,
    "R@20": ir_measures.R @ 20,
}
"""Name to measure. They are trec_eval's own code: what published figures were made with."""

Floats = npt.NDArray[np.float64]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def ranking(
    relevant: Mapping[str, Mapping[str, int]], rankings: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Measure to question to value.

    Args:
        relevant: question to document to grade.
        rankings: question to documents, best first. A question without any counts as zero.
    """
    # trec_eval sorts by score and breaks ties by name: the order is given as scores without ties.
    runs = {
        question: {document: float(-rank) for rank, document in enumerate(rankings.get(question, ()))}
        for question in relevant
    }
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(relevant, 0.0) for name in RANKING}
    names = {measure: name for name, measure in RANKING.items()}
    grades = {question: dict(grades) for question, grades in relevant.items()}
    for found in ir_measures.iter_calc(list(RANKING.values()), grades, {q: run for q, run in runs.items() if run}):
        values[names[found.measure]][found.query_id] = float(found.value)
    return values


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous blanks.

    Source: https://rajpurkar.github.io/SQuAD-explorer/ (evaluate-v2.0.py, normalize_answer)
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 where the answer is one of the gold ones, normalised; else 0."""
    return float(any(normalised(answer) == normalised(one) for one in gold))


def f1(answer: str, gold: Sequence[str]) -> float:
    """The best F1 of the answer's tokens with those of a gold one, normalised.

    Source: https://rajpurkar.github.io/SQuAD-explorer/ (evaluate-v2.0.py, compute_f1)
    """
    return max((_f1(normalised(answer).split(), normalised(one).split()) for one in gold), default=0.0)


def _f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    if not answer or not gold:
        return float(list(answer) == list(gold))
    same = (Counter(answer) & Counter(gold)).total()
    return 2 * same / (len(answer) + len(gold))


def contains(answer: str, gold: Sequence[str]) -> float:
    """1 where the answer holds a gold one, normalised, word for word; else 0."""
    text = f" {normalised(answer)} "
    return float(any(f" {normalised(one)} " in text for one in gold if normalised(one)))


@dataclass(frozen=True, slots=True)
class Curve:
    """What would be risked if only the questions with the greatest scores were answered."""

    coverage: Floats
    """Share of the questions that are answered, rising to 1."""
    risk: Floats
    """Mean loss over the questions that are answered."""
    aurc: float
    """Mean risk over all coverages: lower is better."""
    best_aurc: float
    """That of a score which knew the losses."""


def risk_coverage(scores: Sequence[float], losses: Sequence[float]) -> Curve:
    """The curve of a score; equal scores share their losses.

    Source: Geifman and El-Yaniv, "Selective classification for deep neural networks" (2017); AURC as in Geifman, Uziel
    and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers" (2019).

    Args:
        scores: one per question; the greater, the sooner it is answered.
        losses: of answering each, 0 … 1.

    Raises:
        ValueError: there are none, or not as many of one as of the other.
    """
    if not scores or len(scores) != len(losses):
        raise ValueError(f"{len(scores)} scores for {len(losses)} losses")
    risk = _risks(np.asarray(scores, np.float64), np.asarray(losses, np.float64))
    best = _risks(-np.asarray(losses, np.float64), np.asarray(losses, np.float64))
    coverage = np.arange(1, len(scores) + 1) / len(scores)
    return Curve(coverage, risk, float(risk.mean()), float(best.mean()))


def _risks(scores: Floats, losses: Floats) -> Floats:
    order = np.argsort(-scores, kind="stable")
    _, first, counts = np.unique(-scores[order], return_index=True, return_counts=True)
    shared = np.repeat(np.add.reduceat(losses[order], first) / counts, counts)
    risks: Floats = np.cumsum(shared) / np.arange(1, len(scores) + 1)
    return risks


@dataclass(frozen=True, slots=True)
class Refusals:
    """How well a score tells questions that have an answer from those that have none."""

    auroc: float
    """Chance that an answerable question scores higher than an unanswerable one."""
    refused: dict[str, float]
    """Share of the answerable that is answered (as "80%") to the share of the unanswerable that is then refused."""
    held_out_answered: float
    """Share of the answerable answered at the threshold of 80 %, where that was set on the other half."""
    held_out_refused: float
    """Share of the unanswerable refused there."""


def refusals(scores: Sequence[float], answerable: Sequence[bool], seed: int) -> Refusals:
    """The figures of a score; both kinds of questions are needed.

    Each half of the questions, drawn with `seed`, takes its threshold from the other: the mean of both is given.
    """
    values, kinds = np.asarray(scores, np.float64), np.asarray(answerable, bool)
    good, bad = np.sort(values[kinds]), np.sort(values[~kinds])
    if not len(good) or not len(bad):
        raise ValueError("questions with and without answers are needed")
    below = np.searchsorted(bad, good, side="left") + np.searchsorted(bad, good, side="right")
    refused = {f"{share}%": float((bad < _threshold(good, share / 100)).mean()) for share in (95, 90, 80, 70, 50)}
    halves = np.zeros(len(values), bool)
    generator = np.random.default_rng(seed)
    for kind in (True, False):  # each half gets its share of both kinds
        members = generator.permutation(np.flatnonzero(kinds == kind))
        halves[members[: len(members) // 2]] = True
    answered_held, refused_held = [], []
    for half in (halves, ~halves):
        if not (half & kinds).any() or not (~half & kinds).any() or not (~half & ~kinds).any():
            continue
        threshold = _threshold(np.sort(values[half & kinds]), 0.8)
        answered_held.append(float((values[~half & kinds] >= threshold).mean()))
        refused_held.append(float((values[~half & ~kinds] < threshold).mean()))
    return Refusals(
        auroc=float(below.sum() / 2 / len(good) / len(bad)),
        refused=refused,
        held_out_answered=float(np.mean(answered_held)) if answered_held else float("nan"),
        held_out_refused=float(np.mean(refused_held)) if refused_held else float("nan"),
    )


def _threshold(ascending: Floats, share: float) -> float:
    """The greatest score at which at least `share` of these are answered."""
    return float(ascending[int(np.floor(len(ascending) * (1 - share) + 1e-9))])
