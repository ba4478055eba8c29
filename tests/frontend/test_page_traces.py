"""The page's server is a span in the trace of a question."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.fakes.otlp_collector import Collector
from tests.frontend.page_servers import RunFrontend, Wire

STREAM = "/api/transformer/v2/models/rag/generate_stream"


def test_the_hop_through_the_page_is_in_the_trace(run_frontend: RunFrontend, wire: Wire, built: Path) -> None:
    trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with (
        Collector() as collector,
        run_frontend(
            FRONTEND_TRANSFORMER_URL=wire.url,
            FRONTEND_PAGE_DIR=str(built),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY="100",
        ) as running,
    ):
        with httpx.Client(base_url=running.url, trust_env=False) as client:
            client.get("/")
            client.post(
                STREAM,
                json={"text_input": "a question that nobody else reads"},
                headers={"traceparent": f"00-{trace}-{caller}-01"},
            ).raise_for_status()
        own = "kserve-rag-frontend"
        route = f"POST {STREAM.replace('rag', '{model}')}"
        spans = {span.name: span for span in collector.wait_for(trace, [(own, route), (own, "POST transformer")])}
        assert spans[route].parent_id == caller
        assert spans["POST transformer"].parent_id == spans[route].span_id
        assert spans["POST transformer"].attributes["http.response.status_code"] == 200
        assert "nobody" not in repr(collector.spans())
        assert not [span for span in collector.spans() if span.name.startswith("GET ")]
