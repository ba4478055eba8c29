"""Declared spans and metrics: their names, and the tables of docs/observability.md."""

from __future__ import annotations

from pathlib import Path

from chassis.tracing import COMMON_ATTRIBUTES
from tests.telemetry.declarations import METRICS, SPANS
from tests.telemetry.test_traces import HOPS

PAGE = (Path(__file__).parents[2] / "docs" / "observability.md").read_text(encoding="utf-8")


def codes(names: tuple[str, ...]) -> str:
    return " ".join(f"`{name}`" for name in names) or "–"


def test_names_are_unique_and_say_the_unit() -> None:
    assert len({metric.name for _, metric in METRICS}) == len(METRICS)
    assert len({(span.name, span.kind) for _, span in SPANS}) == len(SPANS)
    for _, metric in METRICS:
        assert metric.name.startswith("kserve_rag_")
        assert metric.name.endswith("_total") is (metric.kind == "counter")
        assert metric.name.endswith("_seconds") is (metric.unit == "seconds")
        assert bool(metric.buckets) is (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))


def test_the_table_of_spans() -> None:
    rows = ["| span | kind | by | what | attributes |", "|---|---|---|---|---|"]
    for room, span in SPANS:
        rows.append(f"| `{span.name}` | {span.kind} | {room} | {span.help} | {codes(span.attributes)} |")
    assert "\n".join(rows) in PAGE
    assert all(f"`{name}`" in PAGE for name in COMMON_ATTRIBUTES)


def test_the_table_of_metrics() -> None:
    rows = ["| metric | kind | unit | by | labels | what |", "|---|---|---|---|---|---|"]
    for room, metric in METRICS:
        cells = (f"`{metric.name}`", metric.kind, metric.unit, room, codes(metric.labels), metric.help)
        rows.append(f"| {' | '.join(cells)} |")
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
