"""Renders results as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.answers import RIGHT_FROM
from evaluation.markdown import section
from evaluation.metrics import RANKING
from evaluation.results import Results, Row, SetResult
from evaluation.retrieval import LAST_TURN, MODES
from evaluation.significance import Difference, compare

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAIN = "nDCG@10"
PARTS = ("dense", "lexical")
"""Signals that the served search combines. It must not be worse than either."""
PUBLISHED = Path(__file__).parent / "published.toml"
"""Published figures of other systems."""

_RANKINGS = """\
A document ranks by its best chunk. In brackets: the 95 % interval over questions (bootstrap). `served` is the default
search."""
_PARTS = """
The difference is to the better of dense and lexical search alone; p: paired randomisation test, two-sided. A small p
with a negative difference means that fusion harms."""
_CONVERSATIONS = """\
The transformer searches for the last question and for a query condensed from the conversation; each passage keeps its
better score. For comparison: the last question alone."""
_REFUSALS = """\
Share of the unanswerable questions refused by the threshold that answers this share of the answerable; held out: the
80 % threshold of one half of the questions, measured on the other ("refused at answered"); AURC: area under the
risk–coverage curve, lower is better; in brackets, the AURC of an ideal score. The unanswerable questions of squad2-dev
are near misses: the index has the passage that they are about. `answerability` was fitted on one half of squad2-dev's
articles, with off-topic questions of mtrag-un and cranfield; `python -m evaluation.refusal` reports the other half."""
_ANSWERS = f"""\
Answers to a sample of each set at temperature 0, by answer mode; `auto` is the default. EM, F1 (normalised like SQuAD),
"holds the answer" and recall (the share of a gold answer's words that the answer has) are over answerable questions; a
refusal scores 0. Right: an answer that contains a gold answer or has F1 ≥ {RIGHT_FROM}; for an unanswerable question, a
refusal. Long answers in other words than the gold answer's have a low F1, so the column beside it decides by recall ≥
{RIGHT_FROM}, [of the measures without a judge the one that agrees best with people](https://arxiv.org/abs/2307.16877).
Words: mean length of an answer. Loops: answers that repeat themselves. Quotes: answers in the documents' own words."""
_CITATIONS = """\
Precision: quotes of a relevant document among all quotes. Recall: answers with at least one such quote, among all
answers to answerable questions, and among those whose sources include a relevant document. Dangling: quotes that the
stored document does not have at their span."""
_KNOWN_ANSWERS = """\
The check runs on known answers instead of a model's. Precision: right quotes among all quotes. Recall: answers with a
right quote, among those that their sources support, and among all with a right passage in the sources. False support:
answers of unrelated questions that get a quote. Held out: the half of the questions that the check's constants were not
chosen with. evaluation/citations.py has the exact definitions."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Difference between a row of a dataset and the baseline's row, or another row of the dataset."""

    set: str
    row: str
    metric: str
    against: str
    difference: Difference

    @property
    def dropped(self) -> bool:
        """Whether the row is significantly worse."""
        return self.difference.significant and self.difference.mean < 0

    def __str__(self) -> str:
        found = self.difference
        return (
            f"{self.set}, {self.row}, {self.metric}: {found.mean:+.4f} against {self.against} "
            f"[{found.low:+.4f}, {found.high:+.4f}], p = {found.p:.4f}"
        )


def against_parts(results: Results) -> list[Comparison]:
    """Compares the served search with the better of its signals, for each dataset."""
    compared = []
    for name, found in results.sets.items():
        parts = [part for part in PARTS if part in found.rows]
        if "served" in found.rows and parts:
            better = max(parts, key=lambda part: found.rows[part].means[MAIN])
            difference = _difference(found.rows["served"], found.rows[better], results)
            compared.append(Comparison(name, "served", MAIN, better, difference))
    return compared


def against_baseline(results: Results, baseline: Results) -> list[Comparison]:
    """Compares the rows that both runs have, in datasets with the same questions."""
    compared = []
    for name, found in results.sets.items():
        before = baseline.sets.get(name)
        if before is None or before.sha256 != found.sha256 or before.judged != found.judged:
            continue
        compared += [
            Comparison(name, row, MAIN, "the baseline", _difference(found.rows[row], before.rows[row], results))
            for row in found.rows
            if row in before.rows
        ]
        for mode in found.answers.keys() & before.answers.keys():
            now, then = (
                dict(zip(answers.questions, answers.f1_per_question, strict=True))
                for answers in (found.answers[mode], before.answers[mode])
            )
            if both := [question for question in now if question in then]:
                difference = compare([now[one] for one in both], [then[one] for one in both], _seed(results))
                compared.append(Comparison(name, f"answers, {mode}", "F1", "the baseline", difference))
    return compared


def markdown(results: Results, *, baseline: Results | None = None, plots: Sequence[str] = ()) -> str:
    """The whole report, including a comparison if there is a baseline. `plots` are URLs relative to the report."""
    pictures = {Path(plot).stem: plot for plot in plots}
    parts = [
        _setup(results),
        _rankings(results),
        f"![nDCG@10 by set and stage]({pictures['ndcg']})" if "ndcg" in pictures else "",
        _all_measures(results),
        _conversations(results),
        _published(results),
        _refusals(results),
        f"![Share of unanswerable questions refused, and risk]({pictures['refusal']})" if "refusal" in pictures else "",
        _answers(results),
        _citations(results),
        _known_answers(results),
        _compared(results, baseline) if baseline is not None else "",
        _left_out(results),
    ]
    return "\n\n".join(filter(None, parts))


def summary(found: SetResult) -> str:
    """One line of results for the terminal."""
    return f"{MAIN} " + ", ".join(f"{name} {row.means[MAIN]:.3f}" for name, row in found.rows.items())


def _setup(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    sizes = "; ".join(
        f"{name} {found.documents or found.index.get('documents')} documents in {found.index.get('chunks')} chunks, "
        f"{found.questions} questions{_weights(found)}"
        for name, found in results.sets.items()
    )
    settings = ", ".join(f"{name} {value}" for name, value in results.settings.items())
    return (
        f"{results.created_at:%Y-%m-%d}, {results.machine}. Embedder {results.embedder}, LLM {results.llm}; "
        f"{versions}. Settings: {settings}. {sizes}."
    )


def _weights(found: SetResult) -> str:
    weights = (found.index.get("weights") or {}).items()
    return f" (served with {', '.join(f'{signal} {share:.2f}' for signal, share in weights)})" if weights else ""


def _rankings(results: Results) -> str:
    modes = [mode for mode in MODES if any(mode in found.rows for found in results.sets.values())]
    parts = {compared.set: compared for compared in against_parts(results)}
    rows = []
    for name, found in results.sets.items():
        row: dict[str, str] = {
            "set": name,
            "questions": str(len(found.judged)),
            **{mode: _mode_cell(found, mode) for mode in modes},
        }
        if parts:
            one = parts.get(name)
            row["served less the better part"] = f"{one.difference.mean:+.3f} ({one.against})" if one else "–"
            row["p"] = _p(one.difference) if one else "–"
        rows.append(row)
    return section("Ranking of documents: nDCG@10", _RANKINGS + (_PARTS if parts else ""), rows)


def _all_measures(results: Results) -> str:
    rows = [
        {"set": name, **{metric: f"{served.means[metric]:.3f}" for metric in RANKING}}
        for name, served in _served_rows(results)
    ]
    return section("Ranking of documents: all measures of the served search", "", rows)


def _conversations(results: Results) -> str:
    rows = []
    for name, both in _served_rows(results):
        if last := results.sets[name].rows.get(LAST_TURN):
            difference = _difference(both, last, results)
            rows.append(
                {
                    "set": name,
                    "nDCG@10, question and condensed": _with_interval(both),
                    "nDCG@10, last question alone": _with_interval(last),
                    "difference": f"{difference.mean:+.3f}",
                    "p": _p(difference),
                }
            )
    return section("Conversations", _CONVERSATIONS, rows)


def _published(results: Results) -> str:
    figures: list[dict[str, Any]] = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))["figure"]
    rows: list[Mapping[str, str]] = []
    for name, served in _served_rows(results):
        others = [
            {
                "set": name,
                "system": f"[{one['system']}]({one['source']})",
                "measure": one["metric"],
                "value": f"{one['value']:.4f}",
            }
            for one in figures
            if one["set"] == name
        ]
        if others:
            ours = f"**this project ({results.embedder})**"
            rows += [{"set": name, "system": ours, "measure": MAIN, "value": f"**{served.means[MAIN]:.4f}**"}, *others]
    return section("Beside published figures", "", rows)


def _refusals(results: Results) -> str:
    rows = []
    for name, found in results.sets.items():
        best = max(found.signals, key=lambda signal: found.signals[signal].auroc, default=None)
        for label, signal in found.signals.items():
            rows.append(
                {
                    "set": name,
                    "score": f"**{label}**" if label == best else label,
                    "AUROC": f"{signal.auroc:.3f}",
                    **{f"at {share} %": f"{signal.refused[f'{share}%']:.1%}" for share in (95, 90, 80, 50)},
                    "held out": f"{signal.held_out_refused:.1%} at {signal.held_out_answered:.1%}",
                    "AURC": f"{signal.aurc:.3f} ({signal.best_aurc:.3f})",
                }
            )
    return section("Questions without an answer", _REFUSALS, rows)


def _answers(results: Results) -> str:
    rows = [
        {
            "set": name,
            "mode": mode,
            "answerable + not": f"{one.answerable} + {one.unanswerable}",
            "EM": f"{one.exact_match:.3f}",
            "F1": f"{one.f1:.3f}",
            "holds the answer": f"{one.contains:.3f}",
            "recall": f"{one.recall:.3f}",
            "passage shown": f"{one.retrieved:.1%}",
            "refused, rightly": _share(one.refused_unanswerable),
            "wrongly": _share(one.refused_answerable),
            "right": f"**{one.right:.1%}**",
            "right, by recall": f"{one.right_by_recall:.1%}",
            "words": f"{one.words:.0f}",
            "loops": str(one.loops),
            "quotes": f"{one.quoted:.0%}",
            "AURC (best)": f"{one.aurc:.3f} ({one.best_aurc:.3f})",
            "p50": f"{one.seconds_p50:.2f} s",
        }
        for name, found in results.sets.items()
        for mode, one in found.answers.items()
    ]
    return section("Answers", _ANSWERS, rows)


def _citations(results: Results) -> str:
    rows = [
        {
            "set": name,
            "mode": mode,
            "quotes": str(one.cited),
            "precision": _share(one.precision),
            "recall": _share(one.recall),
            "recall, where shown": _share(one.recall_of_retrieved),
            "dangling": str(one.dangling),
        }
        for name, found in results.sets.items()
        for mode, answers in found.answers.items()
        if (one := answers.citations)
    ]
    return section("Citations", _CITATIONS, rows)


def _known_answers(results: Results) -> str:
    rows = [
        {
            "set": name,
            "questions": "all" if half == "all" else "held out",
            "answers": f"{values['answers']:.0f}",
            "precision": f"{values['precision']:.1%}",
            "recall": f"{values['recall']:.1%}",
            "recall, all shown": f"{values['recall_of_shown']:.1%}",
            "false support": f"{values['false_support']:.1%}",
            "dangling": f"{values['dangling']:.0f}",
            "p50, p99": f"{values['ms_p50']:.1f} ms, {values['ms_p99']:.1f} ms",
        }
        for name, found in results.sets.items()
        for half, values in found.known_answers.items()
    ]
    return section("The check of citations by itself", _KNOWN_ANSWERS, rows)


def _compared(results: Results, baseline: Results) -> str:
    rows = [
        {
            "set": one.set,
            "row": one.row,
            "measure": one.metric,
            "difference": f"{one.difference.mean:+.4f}",
            "95 % interval": f"{one.difference.low:+.4f} … {one.difference.high:+.4f}",
            "p": _p(one.difference),
            "verdict": ("**worse**" if one.dropped else "better")
            if one.difference.significant
            else "no significant difference",
        }
        for one in against_baseline(results, baseline)
    ]
    title = f"Against the baseline of {baseline.created_at:%Y-%m-%d} (embedder {baseline.embedder})"
    return section(title, "", rows)


def _left_out(results: Results) -> str:
    lines = [
        f"- {name}: {len(found.left_out)} records left out: {'; '.join(found.left_out[:5])}"
        + ("; …" if len(found.left_out) > 5 else "")
        for name, found in results.sets.items()
        if found.left_out
    ]
    return "\n".join(["Left out of the datasets:\n", *lines]) if lines else ""


def _served_rows(results: Results) -> Iterator[tuple[str, Row]]:
    """Name of each dataset, and its row for the search as served."""
    return ((name, found.rows["served"]) for name, found in results.sets.items() if "served" in found.rows)


def _difference(row: Row, other: Row, results: Results) -> Difference:
    return compare(row.per_question[MAIN], other.per_question[MAIN], _seed(results))


def _with_interval(row: Row | None) -> str:
    return "–" if row is None else f"{row.means[MAIN]:.3f} [{row.low:.3f}, {row.high:.3f}]"


def _mode_cell(found: SetResult, mode: str) -> str:
    """Table cell of a search mode; "as fused" if rescoring changes nothing, because there are no multi-vectors."""
    rows = found.rows
    if mode == "rescored" and {"rescored", "fused"} <= rows.keys() and rows["rescored"] == rows["fused"]:
        return "as fused"
    return _with_interval(rows.get(mode))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _p(difference: Difference) -> str:
    return "< 0.001" if difference.p < 0.001 else f"{difference.p:.3f}"


def _seed(results: Results) -> int:
    return int(results.settings.get("seed", 0))
