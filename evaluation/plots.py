"""Plots results as SVG. Equal results give equal bytes."""

from __future__ import annotations

import io
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from evaluation.results import Results
from evaluation.retrieval import ANSWERABILITY, MODES

_STYLE: Any = {
    "svg.hashsalt": "kserve-rag",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(results: Results) -> dict[str, str]:
    """File name → SVG: nDCG@10 per set and mode, and refusals if there are unanswerable questions."""
    pictures = {"ndcg.svg": _rankings(results)}
    if any(found.signals or found.answers for found in results.sets.values()):
        pictures["refusal.svg"] = _refusals(results)
    return {name: _svg(figure) for name, figure in pictures.items()}


def _rankings(results: Results) -> Any:
    with rc_context(_STYLE):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.subplots()
        modes = [mode for mode in MODES if any(mode in found.rows for found in results.sets.values())]
        width = 0.8 / max(1, len(modes))
        for place, mode in enumerate(modes):
            found = [(number, one.rows[mode]) for number, one in enumerate(results.sets.values()) if mode in one.rows]
            at = [number + (place - (len(modes) - 1) / 2) * width for number, _ in found]
            means = [row.means["nDCG@10"] for _, row in found]
            below = [max(0.0, row.means["nDCG@10"] - row.low) for _, row in found]
            above = [max(0.0, row.high - row.means["nDCG@10"]) for _, row in found]
            axes.bar(at, means, width * 0.95, label=mode, yerr=(below, above), error_kw={"lw": 0.8, "ecolor": "#444"})
        axes.set_xticks(range(len(results.sets)), list(results.sets))
        axes.set_ylabel("nDCG@10")
        axes.set_ylim(0, 1)
        axes.legend(ncols=len(modes), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return figure


def _refusals(results: Results) -> Any:
    with rc_context(_STYLE):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, found in results.sets.items():
            for label, signal in found.signals.items():
                if label in (ANSWERABILITY, "best score"):
                    dashed = "-" if label == ANSWERABILITY else ":"
                    left.plot(signal.coverage, signal.risk, dashed, lw=1.2, label=f"{name}, {label}")
            for mode, answers in found.answers.items():
                label = name if len(found.answers) == 1 else f"{name}, {mode}"
                right.plot(answers.coverage, answers.risk, lw=1.2, label=label)
        left.set_title("Risk: the question has no answer", fontsize=9)
        right.set_title("Risk: the answer is not right", fontsize=9)
        for axes in (left, right):
            axes.set_xlabel("share of questions answered")
            axes.set_ylim(0, 1)
            axes.set_xlim(0, 1)
            if axes.lines:
                axes.legend(fontsize=7, frameon=False)
        left.set_ylabel("risk among them")
    return figure


def _svg(figure: Any) -> str:
    with rc_context(_STYLE):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # Formatters strip trailing spaces.
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
