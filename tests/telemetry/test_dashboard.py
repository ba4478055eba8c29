"""Grafana's dashboard: each query is PromQL, asks for metrics that are there, by labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import promql_parser
import pytest

from tests.processes import until

if TYPE_CHECKING:
    from tests.conftest import RunningGraph

COMPONENT = Path(__file__).parents[2] / "manifests" / "components" / "prometheus"
DASHBOARD = json.loads((COMPONENT / "dashboard.json").read_text(encoding="utf-8"))

ADDED_WHEN_SCRAPED = {"namespace", "job", "le"}
"""Labels of every series: the Prometheus operator's, and a bucket's."""

ROWS = ["Requests", "Latency", "Tokens", "Answers and refusals", "Queue", "Ingestion", "Triton"]


def queries() -> Iterator[tuple[str, str]]:
    """(panel, PromQL) as Prometheus gets it."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$namespace", "default")


QUERIES = list(queries())


def selectors(expression: Any) -> Iterator[Any]:
    """Every selector of series in a parsed query."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    elif isinstance(expression, promql_parser.MatrixSelector):
        yield from selectors(expression.vector_selector)
    elif isinstance(expression, promql_parser.BinaryExpr):
        yield from selectors(expression.lhs)
        yield from selectors(expression.rhs)
    elif isinstance(expression, promql_parser.Call):
        for argument in expression.args:
            yield from selectors(argument)
    elif isinstance(expression, promql_parser.NumberLiteral):
        return
    elif hasattr(expression, "expr"):
        yield from selectors(expression.expr)
    else:
        raise AssertionError(f"unknown in PromQL: {expression}")


def grouped_by(expression: Any) -> Iterator[str]:
    """Every label that a query groups or matches by."""
    if isinstance(expression, promql_parser.AggregateExpr):
        yield from expression.modifier.labels if expression.modifier else ()
        yield from grouped_by(expression.expr)
    elif isinstance(expression, promql_parser.BinaryExpr):
        yield from grouped_by(expression.lhs)
        yield from grouped_by(expression.rhs)
    elif isinstance(expression, promql_parser.Call):
        for argument in expression.args:
            yield from grouped_by(argument)


@dataclass
class Series:
    """Type and labels of a metric that a service exports."""

    kind: str
    labels: set[str] = field(default_factory=set)


def offered(graph: RunningGraph) -> dict[str, Series]:
    """Series by their Prometheus name. The library's own parser renames some of Triton's counters."""
    found: dict[str, Series] = {}
    for service in graph.state.services.values():
        kind = ""
        for line in httpx.get(service.metrics_url or "").raise_for_status().text.splitlines():
            if line.startswith("# TYPE "):
                kind = line.split()[-1]
            elif not line.startswith("#"):
                name, labels = re.match(r"(\w+)(\{.*\})?", line).groups()  # type: ignore[union-attr]
                found.setdefault(name, Series(kind)).labels.update(re.findall(r'(\w+)="', labels or ""))
    return found


@pytest.fixture(scope="module")
def series(graph: RunningGraph) -> dict[str, Series]:
    """Every series that the running graph's services offer after a few questions and an upload.

    The upload is an empty file: its task fails, and the index stays as it is.
    """
    question = {"text_input": "How long is the warranty?", "max_tokens": 4, "citations": "label"}
    httpx.post(f"{graph.transformer}/v2/models/rag/generate", json=question, timeout=60).raise_for_status()
    predict = {"instances": [{"input": "How long is the warranty?", "max_tokens": 4}]}
    httpx.post(f"{graph.transformer}/v1/models/rag:predict", json=predict, timeout=60).raise_for_status()
    ingest = f"{graph.state.services['ingest'].url}/v1"
    files = {"files": ("blank.txt", b" ")}
    uploaded = httpx.post(f"{ingest}/indexes/{graph.state.index_name}/documents", files=files).raise_for_status()
    until(lambda: httpx.get(f"{ingest}/tasks/{uploaded.json()['id']}").json()["state"] == "failed")
    # The counter follows a moment after the task's state.
    metrics_url = graph.state.services["ingest"].metrics_url or ""
    until(lambda: "kserve_rag_ingest_tasks_total{" in httpx.get(metrics_url).text)
    return offered(graph)


@pytest.mark.parametrize(("panel", "query"), QUERIES, ids=[f"{n}-{title}" for n, (title, _) in enumerate(QUERIES)])
def test_queries_use_exported_series(series: dict[str, Series], panel: str, query: str) -> None:
    parsed = promql_parser.parse(query)
    labels = set(ADDED_WHEN_SCRAPED)
    used = set(grouped_by(parsed))
    for selector in selectors(parsed):
        assert selector.name in series, f"{panel}: no service has {selector.name}"
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert "namespace" in matched, panel
        assert matched <= series[selector.name].labels | ADDED_WHEN_SCRAPED, panel
        labels |= series[selector.name].labels
    assert used <= labels, panel
    (target,) = [t for p in DASHBOARD["panels"] for t in p.get("targets", []) if _as_sent(t) == query][:1]
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= used, panel


def _as_sent(target: dict[str, Any]) -> str:
    return str(target["expr"]).replace("$__rate_interval", "5m").replace("$namespace", "default")


def test_counters_are_queried_as_rates(series: dict[str, Series]) -> None:
    for panel, query in QUERIES:
        rated = set(re.findall(r"(?:rate|increase)\((\w+)", query))
        for name in {selector.name for selector in selectors(promql_parser.parse(query))}:
            assert (name in rated) is (series[name].kind != "gauge"), f"{panel}: {name} is a {series[name].kind}"


def test_layout_of_the_dashboard() -> None:
    panels = DASHBOARD["panels"]
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == ROWS
    assert len({panel["id"] for panel in panels}) == len(panels)
    titles = [panel["title"] for panel in panels if panel["type"] != "row"]
    assert len(set(titles)) == len(titles)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    named = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval"}
    assert named == variables
