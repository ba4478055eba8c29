"""One trace of a question, received from the running graph: every hop, its parent, and no text."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from chassis.tracing import COMMON_ATTRIBUTES, SpanType
from tests.processes import until
from tests.telemetry.declarations import SPANS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunningGraph
    from tests.fakes.otlp_collector import ReceivedSpan

QUESTION = "How often are records sent by the device?"

CALLER = "caller"
STREAM = "POST /v2/models/{model_name}/generate_stream"
SEARCH = "POST /v1/models/{model_name}:predict"

HOPS = {
    ("kserve-rag-transformer", STREAM): CALLER,
    ("kserve-rag-transformer", "answer"): STREAM,
    ("kserve-rag-transformer", "retrieval"): "answer",
    ("kserve-rag-transformer", "POST vectorstore"): "retrieval",
    ("kserve-rag-vectorstore", SEARCH): "POST vectorstore",
    ("kserve-rag-vectorstore", "search"): SEARCH,
    ("kserve-rag-vectorstore", "embeddings minilm"): "search",
    ("kserve-rag-vectorstore", "POST embedder"): "embeddings minilm",
    ("kserve-rag-embedder", "InferRequest"): "POST embedder",
    ("kserve-rag-embedder", "minilm"): "InferRequest",
    ("kserve-rag-embedder", "compute"): "minilm",
    ("kserve-rag-transformer", "text_completion tensorrt_llm"): "answer",
    ("kserve-rag-transformer", "POST predictor"): "text_completion tensorrt_llm",
    ("kserve-rag-predictor", "InferRequest"): "POST predictor",
    ("kserve-rag-predictor", "tensorrt_llm"): "InferRequest",
    ("kserve-rag-predictor", "compute"): "tensorrt_llm",
    ("kserve-rag-transformer", "citations"): "answer",
}
"""(service, span) → name of its parent span."""

TRITON = ("kserve-rag-embedder", "kserve-rag-predictor")

SERVICE_GRAPH = {
    ("kserve-rag-transformer", "kserve-rag-vectorstore"),
    ("kserve-rag-vectorstore", "kserve-rag-embedder"),
    ("kserve-rag-transformer", "kserve-rag-predictor"),
}


def new_trace() -> tuple[str, str]:
    return secrets.token_hex(16), secrets.token_hex(8)


@pytest.fixture(scope="module")
def question(graph: RunningGraph) -> tuple[str, str, list[ReceivedSpan], str]:
    """Trace and span of the caller, the received spans, and the streamed answer."""
    trace_id, span_id = new_trace()
    body = {"text_input": QUESTION, "temperature": 0, "max_tokens": 24}
    headers = {"traceparent": f"00-{trace_id}-{span_id}-01", "x-request-id": f"request-{trace_id}"}
    with httpx.Client(base_url=graph.transformer, timeout=60) as client:
        answer = client.post("/v2/models/rag/generate_stream", json=body, headers=headers).raise_for_status().text
    graph.collector.wait_for(trace_id, list(HOPS))

    def whole() -> bool:
        """A span is sent when it ends, so before its parent."""
        spans = graph.collector.trace(trace_id)
        return {span.parent_id for span in spans} <= {span_id, *(span.span_id for span in spans)}

    until(whole)
    return trace_id, span_id, graph.collector.trace(trace_id), answer


def test_one_trace_shows_every_hop_within_its_parent(question: tuple[str, str, list[ReceivedSpan], str]) -> None:
    _, caller, spans, _ = question
    by_id = {span.span_id: span for span in spans}
    parents = {
        (span.service, span.name): CALLER if span.parent_id == caller else by_id[span.parent_id].name for span in spans
    }
    assert {hop: parents[hop] for hop in HOPS} == HOPS
    for span in spans:
        parent = by_id.get(span.parent_id)
        assert span.began_ns <= span.ended_ns
        # Only spans of one process share a clock.
        if parent is not None and parent.service == span.service:
            assert parent.began_ns <= span.began_ns, span.name
    assert not [span.name for span in spans if span.failed]


def test_the_service_graph_has_these_edges_and_no_other(question: tuple[str, str, list[ReceivedSpan], str]) -> None:
    _, _, spans, _ = question
    by_id = {span.span_id: span for span in spans}
    edges = {
        (by_id[span.parent_id].service, span.service)
        for span in spans
        if span.parent_id in by_id and by_id[span.parent_id].service != span.service
    }
    assert edges == SERVICE_GRAPH
    for span in spans:
        parent = by_id.get(span.parent_id)
        if parent is not None and parent.service != span.service:
            assert (parent.kind, span.kind) == ("client", "server")


def declared(span: ReceivedSpan) -> SpanType:
    """The declaration of a span that one of our services has sent."""
    for kind in sorted((span for _, span in SPANS), key=lambda kind: kind.name.count("{")):
        pattern = re.sub(r"\\\{[^}]*\\\}", ".+", re.escape(kind.name))
        if kind.kind == span.kind and re.fullmatch(pattern, span.name):
            return kind
    raise AssertionError(f"{span.name} ({span.kind}) is not in the table of spans")


def test_spans_and_their_attributes_are_declared(question: tuple[str, str, list[ReceivedSpan], str]) -> None:
    _, _, spans, _ = question
    for span in spans:
        if span.service not in TRITON:
            assert set(span.attributes) <= {*declared(span).attributes, *COMMON_ATTRIBUTES}, span.name


def test_no_attribute_holds_text(graph: RunningGraph, question: tuple[str, str, list[ReceivedSpan], str]) -> None:
    trace_id, _, spans, answer = question
    documents = "\n".join(file.read_text() for file in sorted(graph.corpus.rglob("*.md")))
    secret = f"{QUESTION}\n{documents}\n{answer}".lower()
    for span in spans:
        for name, value in span.attributes.items():
            for text in value if isinstance(value, list) else [value]:
                # An id that we have sent, or a word: never a sentence, nor a part of one.
                assert not isinstance(text, str) or text == f"request-{trace_id}" or " " not in text, (name, text)
        for word in ("records", "device"):
            assert word in secret
            assert word not in str(span.attributes).lower()


def test_spans_have_sizes(graph: RunningGraph, question: tuple[str, str, list[ReceivedSpan], str]) -> None:
    trace_id, _, spans, _ = question
    by_name: dict[str, dict[str, Any]] = {span.name: span.attributes for span in spans}
    request = by_name[STREAM]
    assert request["http.request.header.x-request-id"] == [f"request-{trace_id}"]
    assert (request["http.response.status_code"], request["http.route"]) == (
        200,
        "/v2/models/{model_name}/generate_stream",
    )
    answer = by_name["answer"]
    assert answer["kserve_rag.question.chars"] == len(QUESTION)
    assert answer["kserve_rag.outcome"] == "answered"
    assert answer["kserve_rag.index.version"] == graph.index_version
    assert by_name["retrieval"]["kserve_rag.passages"] >= answer["kserve_rag.sources"] >= 1
    completion = by_name["text_completion tensorrt_llm"]
    assert completion["gen_ai.request.max_tokens"] == 24
    assert 0 < completion["gen_ai.usage.output_tokens"] <= 24
    assert completion["gen_ai.usage.input_tokens"] == answer["gen_ai.usage.input_tokens"] > 30
    assert completion["gen_ai.response.finish_reasons"] == answer["gen_ai.response.finish_reasons"]
    assert by_name["embeddings minilm"]["gen_ai.embeddings.dimension.count"] == 384
    assert by_name["POST embedder"]["http.request.body.size"] > len(QUESTION)
    assert next(span for span in spans if span.name.startswith("text_completion")).events == ("first_token",)


def test_a_refused_request_marks_its_span_without_a_message(graph: RunningGraph) -> None:
    trace_id, span_id = new_trace()
    response = httpx.post(
        f"{graph.vectorstore}/v1/models/vectorstore:predict",
        json={"instances": [{"input": "a question of somebody", "collections": ["nowhere"]}]},
        headers={"traceparent": f"00-{trace_id}-{span_id}-01"},
    )
    assert response.status_code == 400
    spans = graph.collector.wait_for(
        trace_id, [("kserve-rag-vectorstore", "search"), ("kserve-rag-vectorstore", SEARCH)]
    )
    request, search = spans
    assert (search.failed, search.attributes["error.type"]) == (True, "invalid_request")
    # The caller's mistake is not an error of the service.
    assert (request.failed, request.attributes["http.response.status_code"]) == (False, 400)
    assert "somebody" not in str([span.attributes for span in spans])


def test_unsampled_traces_are_not_recorded(graph: RunningGraph) -> None:
    """Triton ignores the sampled flag, so it must not get the header of an unsampled trace."""
    dropped, kept = new_trace(), new_trace()
    for (trace_id, span_id), flags in ((dropped, "00"), (kept, "01")):
        headers = {"traceparent": f"00-{trace_id}-{span_id}-{flags}"}
        body = {"text_input": QUESTION, "temperature": 0, "max_tokens": 2}
        httpx.post(f"{graph.transformer}/v2/models/rag/generate", json=body, headers=headers, timeout=60)
    wanted = [hop for hop in HOPS if hop[1] != STREAM]
    assert graph.collector.wait_for(kept[0], wanted)
    assert graph.collector.trace(dropped[0]) == []


def test_requests_without_a_trace_start_one(graph: RunningGraph) -> None:
    answered = httpx.post(
        f"{graph.transformer}/v1/models/rag:predict",
        json={"instances": [{"input": QUESTION, "max_tokens": 2}]},
        headers={"x-request-id": "began-here", "traceparent": "00-not-a-trace-01"},
        timeout=60,
    )
    assert answered.status_code == 200
    root = graph.collector.wait_for_root("kserve-rag-transformer", "began-here")
    assert root.parent_id == ""
    assert graph.collector.wait_for(root.trace_id, [("kserve-rag-embedder", "InferRequest")])


def test_an_ingestion_is_one_trace(graph: RunningGraph, tmp_path: Path) -> None:
    embedder = graph.state.services["embedder"]
    variables = {
        "INGEST_INDEX_ROOT": str(tmp_path),
        "INGEST_EMBEDDER_URL": embedder.url,
        "INGEST_EMBEDDER_MODEL": embedder.model,
        "INGEST_TOKENIZER": str(graph.state.tokenizer),
        "OTEL_EXPORTER_OTLP_ENDPOINT": graph.collector.url,
    }
    command = [sys.executable, "-m", "ingest", str(graph.corpus / "accessories.md")]
    subprocess.run(command, check=True, env={**os.environ, **variables}, capture_output=True)
    (root,) = [span for span in graph.collector.spans() if span.service == "kserve-rag-ingest" and not span.parent_id]
    assert (root.name, root.kind, root.failed) == ("ingest", "internal", False)
    hops = [("kserve-rag-ingest", "embeddings minilm"), ("kserve-rag-embedder", "InferRequest")]
    spans = graph.collector.wait_for(root.trace_id, hops)
    assert {span.parent_id for span in spans if span.name == "embeddings minilm"} == {root.span_id}


def test_probes_leave_no_traces(graph: RunningGraph) -> None:
    for path in ("/v2/models/rag/ready", "/metrics", "/v2/health/live"):
        assert httpx.get(graph.transformer + path).status_code == 200
    assert not [span for span in graph.collector.spans() if span.name.startswith("GET ") and not span.parent_id]
