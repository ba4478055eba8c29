"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evaluation.answers import RIGHT_FROM_F1
from evaluation.metrics import RANKING
from evaluation.published import figures
from evaluation.results import Results, Row, SetResult
from evaluation.retrieval import LAST_TURN, MODES
from evaluation.significance import Difference, compare

MAIN = "nDCG@10"
PARTS = ("dense", "lexical")
"""Signals of the served search, which must not be worse than either."""


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
risk–coverage curve, lower is better, in brackets that of an ideal score. The unanswerable questions of squad2-dev are
near misses: the index has the passage that they are about. `answerability` was fitted on one half of squad2-dev's
articles, with off-topic questions of mtrag-un and cranfield; `python -m evaluation.refusal` reports the other half."""
_ANSWERS = f"""\
Answers to a sample of each set at temperature 0. EM, F1 (normalised like SQuAD) and "holds the answer" are over
answerable questions; a refusal scores 0. Right: an answer that contains a gold answer or has F1 ≥ {RIGHT_FROM_F1}; for
an unanswerable question, a refusal."""
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
class Compared:
    """A row of a set compared with a baseline, or with another row of the set."""

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


def against_parts(results: Results) -> list[Compared]:
    """The served search against the better of its signals, per set."""
    compared = []
    for name, found in results.sets.items():
        parts = [part for part in PARTS if part in found.rows]
        if "served" in found.rows and parts:
            better = max(parts, key=lambda part: found.rows[part].means[MAIN])
            values, others = (found.rows[row].per_question[MAIN] for row in ("served", better))
            compared.append(Compared(name, "served", MAIN, better, compare(values, others, _seed(results))))
    return compared


def against_baseline(results: Results, baseline: Results) -> list[Compared]:
    """Rows that both runs have, in sets with the same questions."""
    compared = []
    for name, found in results.sets.items():
        before = baseline.sets.get(name)
        if before is None or before.sha256 != found.sha256 or before.judged != found.judged:
            continue
        for row in found.rows:
            if row in before.rows:
                values, others = (rows[row].per_question[MAIN] for rows in (found.rows, before.rows))
                compared.append(Compared(name, row, MAIN, "the baseline", compare(values, others, _seed(results))))
        if found.answers is not None and before.answers is not None:
            both = dict(zip(before.answers.questions, before.answers.f1_per_question, strict=True))
            pairs = [
                (value, both[question])
                for question, value in zip(found.answers.questions, found.answers.f1_per_question, strict=True)
                if question in both
            ]
            if pairs:
                values, others = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
                compared.append(
                    Compared(name, "answers", "F1", "the baseline", compare(values, others, _seed(results)))
                )
    return compared


def markdown(results: Results, *, baseline: Results | None = None, plots: Sequence[str] = ()) -> str:
    """The whole report.

    Args:
        results: of this run.
        baseline: of the run to compare with, or None.
        plots: paths of pictures, relative to the report.
    """
    sections = [
        _setup(results),
        *_rankings(results),
        *(f"![{_caption(plot)}]({plot})" for plot in plots if "ndcg" in plot),
        *_all_measures(results),
        *_conversations(results),
        *_published(results),
        *_refusals(results),
        *(f"![{_caption(plot)}]({plot})" for plot in plots if "refusal" in plot),
        *_answers(results),
        *_known_answers(results),
        *(_compared(results, baseline) if baseline is not None else ()),
        *_left_out(results),
    ]
    return "\n\n".join(sections) + "\n"


def _caption(plot: str) -> str:
    return "nDCG@10 by set and stage" if "ndcg" in plot else "Share of unanswerable questions refused, and risk"


def _setup(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    sizes = "; ".join(
        f"{name} {found.documents or found.index.get('documents')} documents in {found.index.get('chunks')} chunks, "
        f"{found.questions} questions"
        for name, found in results.sets.items()
    )
    settings = ", ".join(f"{name} {value}" for name, value in results.settings.items())
    return (
        f"{results.created_at:%Y-%m-%d}, {results.machine}. Embedder {results.embedder}, LLM {results.llm}; "
        f"{versions}. Settings: {settings}. {sizes}."
    )


def _rankings(results: Results) -> Iterator[str]:
    modes = [mode for mode in MODES if any(mode in found.rows for found in results.sets.values())]
    parts = {compared.set: compared for compared in against_parts(results)}
    header = ["set", "questions", *modes, *(["served less the better part", "p"] if parts else [])]
    rows = []
    for name, found in results.sets.items():
        cells = [name, str(len(found.judged)), *(_stage(found, mode) for mode in modes)]
        if parts:
            beside = parts.get(name)
            cells += [
                f"{beside.difference.mean:+.3f} ({beside.against})" if beside else "–",
                _p(beside.difference) if beside else "–",
            ]
        rows.append(cells)
    yield _section("Ranking of documents: nDCG@10", _RANKINGS + (_PARTS if parts else ""), header, rows)


def _all_measures(results: Results) -> Iterator[str]:
    rows = [
        [name, *(f"{found.rows['served'].means[metric]:.3f}" for metric in RANKING)]
        for name, found in results.sets.items()
        if "served" in found.rows
    ]
    if rows:
        yield _section("Ranking of documents: all measures of the served search", "", ["set", *RANKING], rows)


def _conversations(results: Results) -> Iterator[str]:
    rows = []
    for name, found in results.sets.items():
        if LAST_TURN in found.rows and "served" in found.rows:
            both, last = found.rows["served"], found.rows[LAST_TURN]
            difference = compare(both.per_question[MAIN], last.per_question[MAIN], _seed(results))
            rows.append([name, _with_interval(both), _with_interval(last), f"{difference.mean:+.3f}", _p(difference)])
    if rows:
        header = ["set", "nDCG@10, question and condensed", "nDCG@10, last question alone", "difference", "p"]
        yield _section("Conversations", _CONVERSATIONS, header, rows)


def _published(results: Results) -> Iterator[str]:
    rows = []
    for name, found in results.sets.items():
        told = [figure for figure in figures() if figure.set == name]
        if told and "served" in found.rows:
            own = found.rows["served"].means
            rows += [[name, f"**this project ({results.embedder})**", MAIN, f"**{own[MAIN]:.4f}**"]]
            rows += [[name, f"[{one.system}]({one.source})", one.metric, f"{one.value:.4f}"] for one in told]
    if rows:
        yield _section("Beside published figures", "", ["set", "system", "measure", "value"], rows)


def _refusals(results: Results) -> Iterator[str]:
    rows = []
    for name, found in results.sets.items():
        best = max(found.signals, key=lambda signal: found.signals[signal].auroc, default=None)
        for label, signal in found.signals.items():
            shown = f"**{label}**" if label == best else label
            rows.append(
                [
                    name,
                    shown,
                    f"{signal.auroc:.3f}",
                    *(f"{signal.refused[share]:.1%}" for share in ("95%", "90%", "80%", "50%")),
                    f"{signal.held_out_refused:.1%} at {signal.held_out_answered:.1%}",
                    f"{signal.aurc:.3f} ({signal.best_aurc:.3f})",
                ]
            )
    if rows:
        header = ["set", "score", "AUROC", "at 95 %", "at 90 %", "at 80 %", "at 50 %", "held out", "AURC"]
        yield _section("Questions without an answer", _REFUSALS, header, rows)


def _answers(results: Results) -> Iterator[str]:
    found = {name: one.answers for name, one in results.sets.items() if one.answers is not None}
    if not found:
        return
    header = ["set", "answerable + not", "EM", "F1", "holds the answer", "passage shown"]
    header += ["refused, rightly", "wrongly", "right", "AURC (best)", "p50"]
    rows = [
        [
            name,
            f"{one.answerable} + {one.unanswerable}",
            f"{one.exact_match:.3f}",
            f"{one.f1:.3f}",
            f"{one.contains:.3f}",
            f"{one.retrieved:.1%}",
            _share(one.refused_unanswerable),
            _share(one.refused_answerable),
            f"{one.right:.1%}",
            f"{one.aurc:.3f} ({one.best_aurc:.3f})",
            f"{one.seconds_p50:.2f} s",
        ]
        for name, one in found.items()
    ]
    yield _section("Answers", _ANSWERS, header, rows)
    rows = [
        [
            name,
            str(one.citations.cited),
            _share(one.citations.precision),
            _share(one.citations.recall),
            _share(one.citations.recall_of_retrieved),
            str(one.citations.dangling),
        ]
        for name, one in found.items()
        if one.citations is not None
    ]
    if rows:
        header = ["set", "quotes", "precision", "recall", "recall, where shown", "dangling"]
        yield _section("Citations", _CITATIONS, header, rows)


def _known_answers(results: Results) -> Iterator[str]:
    rows = [
        [
            name,
            "all" if half == "all" else "held out",
            f"{values['answers']:.0f}",
            f"{values['precision']:.1%}",
            f"{values['recall']:.1%}",
            f"{values['recall_of_shown']:.1%}",
            f"{values['false_support']:.1%}",
            f"{values['dangling']:.0f}",
            f"{values['ms_p50']:.1f} ms, {values['ms_p99']:.1f} ms",
        ]
        for name, found in results.sets.items()
        for half, values in found.known_answers.items()
    ]
    if rows:
        header = ["set", "questions", "answers", "precision", "recall", "recall, all shown", "false support"]
        header += ["dangling", "p50, p99"]
        yield _section("The check of citations by itself", _KNOWN_ANSWERS, header, rows)


def _compared(results: Results, baseline: Results) -> Iterator[str]:
    rows = [
        [
            one.set,
            one.row,
            one.metric,
            f"{one.difference.mean:+.4f}",
            f"{one.difference.low:+.4f} … {one.difference.high:+.4f}",
            _p(one.difference),
            ("**worse**" if one.dropped else "better") if one.difference.significant else "no difference to tell",
        ]
        for one in against_baseline(results, baseline)
    ]
    title = f"Against the baseline of {baseline.created_at:%Y-%m-%d} (embedder {baseline.embedder})"
    yield _section(title, "", ["set", "row", "measure", "difference", "95 % interval", "p", "verdict"], rows)


def _left_out(results: Results) -> Iterator[str]:
    told = [
        f"- {name}: {len(found.left_out)} records left out: {'; '.join(found.left_out[:5])}"
        + ("; …" if len(found.left_out) > 5 else "")
        for name, found in results.sets.items()
        if found.left_out
    ]
    if told:
        yield "Left out of the datasets:\n\n" + "\n".join(told)


def _with_interval(row: Row | None) -> str:
    return "–" if row is None else f"{row.means[MAIN]:.3f} [{row.low:.3f}, {row.high:.3f}]"


def _stage(found: SetResult, mode: str) -> str:
    """Cell of a mode; "as fused" if the index has nothing to rescore with."""
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


def _section(title: str, told: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n\n".join(filter(None, (f"### {title}", told, _table(header, rows))))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)])


def summary(found: SetResult) -> str:
    """One line for the terminal."""
    told = [f"{row} {values.means[MAIN]:.3f}" for row, values in found.rows.items()]
    return f"{MAIN} {', '.join(told)}"
