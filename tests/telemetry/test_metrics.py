"""/metrics of the running graph: its series, and how requests change them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import until
from tests.telemetry.declarations import METRICS

if TYPE_CHECKING:
    from tests.conftest import RunningGraph

ASK_BY_GRPC = Path(__file__).with_name("grpc_question.py")
QUESTION = "How often are records sent?"
STORY = "Tell me a long story about the sea."
GENERATE = "/v2/models/{model_name}/generate"
STREAM = "/v2/models/{model_name}/generate_stream"
PREDICT = "/v1/models/{model_name}:predict"
OUTCOMES = "kserve_rag_answers_total"

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(url: str) -> Samples:
    families = text_string_to_metric_families(httpx.get(url).raise_for_status().text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


class Moved:
    """How samples differ between two readings."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.before = samples(url)
        self.after: Samples = {}

    def __call__(self, name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return self.after.get(key, 0.0) - self.before.get(key, 0.0)


@contextmanager
def moving(graph: RunningGraph) -> Iterator[tuple[Moved, Moved]]:
    """Changes of the transformer's and the vectorstore's metrics while the block runs."""
    readings = [Moved(graph.state.services[name].metrics_url or "") for name in ("transformer", "vectorstore")]
    yield readings[0], readings[1]
    for reading in readings:
        reading.after = samples(reading.url)


@pytest.fixture
def rag(graph: RunningGraph) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=graph.transformer, timeout=60) as client:
        yield client


def generate(rag: httpx.Client, **body: Any) -> dict[str, Any]:
    sent = {"text_input": QUESTION, "temperature": 0, "max_tokens": 12, **body}
    return rag.post("/v2/models/rag/generate", json=sent).raise_for_status().json()


def test_declared_metrics_are_exported(graph: RunningGraph, rag: httpx.Client) -> None:
    generate(rag)
    services = {"transformer": ("transformer",), "vectorstore": ("vectorstore",)}
    services["chassis"] = ("transformer", "vectorstore")
    services["ingest"] = ()  # what it counts are tasks: tests/ingest/test_ingest_service.py
    for room, metric in METRICS:
        for service in services[room]:
            text = httpx.get(graph.state.services[service].metrics_url or "").text
            families = {family.name: family for family in text_string_to_metric_families(text)}
            family = families[metric.name.removesuffix("_total")]
            assert (family.type, family.documentation) == (metric.kind, metric.help)
            told = [s for s in family.samples if not s.name.endswith("_created")]
            assert {s.name for s in told} == set(metric.series()), metric.name
            assert {frozenset(s.labels) - {"le"} for s in told} == {frozenset(metric.labels)}, metric.name
            if metric.buckets:
                bounds = {float(s.labels["le"]) for s in told if "le" in s.labels}
                assert bounds == {*metric.buckets, float("inf")}


def test_services_export_only_their_own_metrics(graph: RunningGraph) -> None:
    for service in ("transformer", "vectorstore"):
        names = {name for name, _ in samples(graph.state.services[service].metrics_url or "")}
        ours = {name for name in names if name.startswith("kserve_rag_") and not name.endswith("_created")}
        assert ours <= {s for room, m in METRICS if room in ("chassis", service) for s in m.series()}


def test_an_answer_is_counted_once_everywhere(graph: RunningGraph, rag: httpx.Client) -> None:
    with moving(graph) as (transformer, vectorstore):
        answer = generate(rag, citations="label")
    assert transformer("kserve_rag_requests_total", model_name="rag", route=GENERATE, status="200") == 1
    assert transformer("kserve_rag_request_duration_seconds_count", model_name="rag", route=GENERATE) == 1
    assert transformer(OUTCOMES, outcome="answered") == 1
    assert transformer("kserve_rag_first_token_seconds_count") == 1
    assert transformer("kserve_rag_output_token_seconds_count") == 1
    assert transformer("kserve_rag_retrieval_seconds_count") == 1
    assert transformer("kserve_rag_tokens_total", type="input") == answer["usage"]["prompt_tokens"]
    assert transformer("kserve_rag_tokens_total", type="output") == answer["usage"]["completion_tokens"]
    verdicts = [statement["verdict"] for statement in answer["citations"]["statements"]]
    for verdict in ("supported", "unsupported", "no_claim"):
        assert transformer("kserve_rag_statements_total", verdict=verdict) == verdicts.count(verdict)
    # The answer's timings are milliseconds, rounded to hundredths.
    timings = answer["timings"]
    assert transformer("kserve_rag_retrieval_seconds_sum") == pytest.approx(timings["retrieval"] / 1000)
    first = sum(timings.get(lap, 0) for lap in ("retrieval", "prompt", "first_token")) / 1000
    assert transformer("kserve_rag_first_token_seconds_sum") == pytest.approx(first)

    assert vectorstore("kserve_rag_requests_total", model_name="vectorstore", route=PREDICT, status="200") == 1
    assert vectorstore("kserve_rag_passages_found_count") == 1
    assert vectorstore("kserve_rag_passages_found_sum") >= len(answer["sources"])
    assert vectorstore("kserve_rag_embed_seconds_sum") == pytest.approx(timings["embed"] / 1000)
    assert vectorstore("kserve_rag_search_seconds_sum") == pytest.approx(timings["search"] / 1000)


def test_refusals_and_faults_have_their_own_counts(graph: RunningGraph, rag: httpx.Client) -> None:
    with moving(graph) as (transformer, _):
        refused = generate(rag, filters={"source": "there-is-no-such-file"})
        rejected = rag.post("/v2/models/rag/generate", json={"text_input": ""})
        nowhere = rag.post("/v9/whatever/a-caller/makes-up", json={})
    assert (refused["refused"], rejected.status_code, nowhere.status_code) == (True, 400, 404)
    assert transformer(OUTCOMES, outcome="no_support") == 1
    assert transformer(OUTCOMES, outcome="answered") == 0
    assert transformer("kserve_rag_first_token_seconds_count") == 0
    assert transformer("kserve_rag_requests_total", model_name="rag", route=GENERATE, status="400") == 1
    assert transformer("kserve_rag_requests_total", model_name="rag", route="none", status="404") == 1
    assert not [labels for _, labels in transformer.after if "makes-up" in str(labels)]


def test_failed_generations_are_counted(graph: RunningGraph, rag: httpx.Client) -> None:
    with moving(graph) as (transformer, _):
        late = rag.post(
            "/v2/models/rag/generate",
            # Drawn at random, so that no loop ends it early.
            json={"text_input": STORY, "max_tokens": 500, "retrieval": False, "temperature": 1.5, "top_k": 0},
            headers={"x-request-timeout-ms": "300"},
        )
    assert late.status_code == 504
    assert transformer(OUTCOMES, outcome="failed") == 1
    assert transformer("kserve_rag_requests_total", model_name="rag", route=GENERATE, status="504") == 1


def test_disconnected_callers_are_counted_and_not_in_flight(graph: RunningGraph, rag: httpx.Client) -> None:
    metrics_url = graph.state.services["transformer"].metrics_url or ""
    in_flight = ("kserve_rag_requests_in_flight", (("model_name", "rag"),))
    before = samples(metrics_url)
    body = {"text_input": STORY, "max_tokens": 500, "retrieval": False}
    with rag.stream("POST", "/v2/models/rag/generate_stream", json=body) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        # This question and the reading itself.
        assert samples(metrics_url)[in_flight] == 2
    left = (OUTCOMES, (("outcome", "left"),))
    until(lambda: samples(metrics_url).get(left, 0) == before.get(left, 0) + 1)
    until(lambda: samples(metrics_url)[in_flight] == 1)


def test_grpc_calls_are_counted_like_requests(graph: RunningGraph) -> None:
    route = "/inference.GRPCInferenceService/ModelInfer"
    command = [sys.executable, ASK_BY_GRPC, graph.transformer_grpc, "by-grpc", "none"]
    with moving(graph) as (transformer, _):
        said = [subprocess.run([*command, *more], capture_output=True, text=True).stdout for more in ([], ["nothing"])]
    assert said == ["OK\n", "StatusCode.INVALID_ARGUMENT\n"]
    for status in ("200", "400"):
        assert transformer("kserve_rag_requests_total", model_name="rag", route=route, status=status) == 1


def test_the_served_index_is_in_the_metrics(graph: RunningGraph) -> None:
    there = samples(graph.state.services["vectorstore"].metrics_url or "")
    index = httpx.get(f"{graph.vectorstore}/v1/indexes").json()["index"]
    (info,) = [dict(labels) for name, labels in there if name == "kserve_rag_index_info"]
    assert info == {"collection": "default", "version": graph.index_version, "embedder": index["embedder"]}
    labels = (("collection", "default"),)
    assert there["kserve_rag_index_documents", labels] == index["documents"]
    assert there["kserve_rag_index_chunks", labels] == index["chunks"]
    assert there["kserve_rag_index_trouble", labels] == 0
