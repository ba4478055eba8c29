"""docs/observability.md has every span and metric, as they are declared."""

from __future__ import annotations

from pathlib import Path

from chassis import signals
from tests.telemetry.test_traces import HOPS

PAGE = (Path(__file__).parents[2] / "docs" / "observability.md").read_text(encoding="utf-8")
ON_EVERY_SPAN = ("error.type", "kserve_rag.cancelled")


def codes(names: tuple[str, ...]) -> str:
    return " ".join(f"`{name}`" for name in names) or "–"


def test_the_table_of_spans() -> None:
    rows = ["| span | kind | by | what | attributes |", "|---|---|---|---|---|"]
    for span in signals.SPANS:
        assert span.attributes[-2:] == ON_EVERY_SPAN
        rows.append(f"| `{span.name}` | {span.kind} | {span.owner} | {span.help} | {codes(span.attributes[:-2])} |")
    assert "\n".join(rows) in PAGE


def test_the_table_of_metrics() -> None:
    rows = ["| metric | kind | unit | by | labels | what |", "|---|---|---|---|---|---|"]
    for metric in signals.METRICS:
        told = (f"`{metric.name}`", metric.kind, metric.unit, metric.owner, codes(metric.labels), metric.help)
        rows.append(f"| {' | '.join(told)} |")
    assert "\n".join(rows) in PAGE


def test_the_picture_has_every_hop_in_its_place() -> None:
    picture = PAGE.split("One streamed question:")[1].split("```")[1].strip("\n")
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in picture.splitlines():
        name = line.lstrip("│├└─ ").split("   ")[0].strip()
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 3
        above[depth:] = [name]
        drawn.setdefault(name, above[depth - 1] if depth else "caller")
    expected = {name: parent for (service, name), parent in HOPS.items() if service != "kserve-rag-predictor"}
    assert {name: drawn[name] for name in expected} == expected
    assert picture.count("InferRequest") == 2
