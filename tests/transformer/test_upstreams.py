"""The running transformer with upstreams that are down, slow, or answer nonsense; headers; clients that leave."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.embedder import LoopbackEmbedder
from tests.processes import until
from tests.transformer.running import (
    BODIES,
    CHAT,
    GENERATE,
    STREAM,
    Q,
    Running,
    between,
    message,
    serving,
)

CODES = {401: "unauthorized", 502: "bad_upstream", 503: "not_ready", 504: "deadline_exceeded"}


@pytest.mark.parametrize("path", ["/v1/indexes", "/v1/documents/d"])
@pytest.mark.parametrize(
    ("behaviour", "status"), [("fail", 502), ("garbage", 502), ("hang", 504), ("busy", 503), ("unauthorized", 401)]
)
async def test_faults_while_browsing(service: Running, path: str, behaviour: Any, status: int) -> None:
    service.upstreams.documents_answer = service.upstreams.indexes_answer = behaviour
    response = await service.client.get(path, headers={"x-request-timeout-ms": "300"} if status == 504 else {})
    assert response.status_code == status
    assert "vectorstore" in message(response)
    assert "internals" not in response.text


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("upstream", ["vectorstore", "predictor"])
@pytest.mark.parametrize(
    ("behaviour", "status"), [("fail", 502), ("garbage", 502), ("hang", 504), ("busy", 503), ("unauthorized", 401)]
)
async def test_upstream_faults_have_their_status_within_the_deadline(
    service: Running, path: str, upstream: str, behaviour: Any, status: int
) -> None:
    setattr(service.upstreams, upstream, behaviour)
    deadline = {"x-request-timeout-ms": "1000"} if behaviour == "hang" else {}
    response = await service.client.post(path, json=BODIES[path], headers=deadline)
    if path == STREAM and upstream == "predictor" and response.status_code == 200:
        # The sources were sent after half a second: the fault is the stream's last event.
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
        assert events[0]["sources"]
        assert events[-1]["code"] == CODES[status]
        assert "internals" not in response.text
    else:
        assert response.status_code == status
        assert upstream in message(response)
        assert "internals" not in response.text
        assert ("retry-after" in response.headers) is (status == 503)
    service.upstreams.vectorstore = service.upstreams.predictor = "answer"
    assert (await service.client.post(path, json=BODIES[path])).status_code == 200


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event(service: Running) -> None:
    for behaviour, status in (("break", 502), ("unfinished", 503)):
        service.upstreams.predictor = behaviour  # type: ignore[assignment]
        response = await service.client.post(STREAM, json=BODIES[STREAM])
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
        assert response.status_code == 200
        assert "".join(event.get("text_output", "") for event in events).startswith("The warranty")
        assert events[-1]["code"] == CODES[status]
        assert "0xdeadbeef" not in response.text
        chat = await service.client.post(CHAT, json={**BODIES[CHAT], "stream": True})
        *_, error, done = [line for line in chat.text.splitlines() if line]
        assert json.loads(error[6:])["error"]["code"] == CODES[status]
        assert done == "data: [DONE]"
        whole = await service.client.post(GENERATE, json=BODIES[GENERATE])
        assert whole.status_code == status


async def test_headers_travel_with_their_own_request_only(service: Running) -> None:
    def sent(number: int) -> dict[str, str]:
        return {
            "authorization": f"Bearer {number}",
            "x-request-id": f"request-{number}",
            "traceparent": f"00-{number:032x}-{number:016x}-01",
            "cookie": "session=1",
        }

    callers = [
        service.client.post(GENERATE, json={"text_input": f"{Q} {n}"}, headers=sent(n) if n % 2 else {})
        for n in range(20)
    ]
    await asyncio.gather(*callers)
    assert len(service.upstreams.seen) == 40
    for upstream, headers, body in service.upstreams.seen:
        lower = {name.lower(): value for name, value in headers.items()}
        question = body["instances"][0]["input"] if upstream == "vectorstore" else body["text_input"]
        number = int(question.split("?")[1].split()[0].split("<")[0])
        assert "authorization" not in lower
        assert lower["x-request-id"] == (f"request-{number}" if number % 2 else lower["x-request-id"])
        assert lower.get("traceparent") == (sent(number)["traceparent"] if number % 2 else None)
        assert "cookie" not in lower
        assert 0 < int(lower["x-request-timeout-ms"]) <= 120_000


@pytest.mark.parametrize("path", BODIES)
async def test_a_leaving_client_ends_the_generation(service: Running, path: str) -> None:
    upstreams = service.upstreams
    upstreams.predictor = "endless"
    body = {**BODIES[path], "stream": True} if path == CHAT else BODIES[path]
    if path in (STREAM, CHAT):
        async with service.client.stream("POST", path, json=body) as response:
            async for _ in response.aiter_lines():
                break
    else:
        call = asyncio.create_task(service.client.post(path, json=body))
        await asyncio.to_thread(until, lambda: "predictor" in {name for name, _, _ in upstreams.seen})
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await asyncio.to_thread(upstreams.left.wait, 30)  # the deadline of 120 s has not passed


async def test_a_closed_port_is_503_at_once(service: Running) -> None:
    async with between(service.upstreams, PREDICTOR_URL="http://127.0.0.1:9") as client:
        for path, body in BODIES.items():
            response = await client.post(path, json=body)
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert "predictor cannot be reached" in message(response)
        ready = await client.get("/v2/models/rag/ready")
        assert ready.status_code == 503
        assert message(ready) == "The predictor cannot be reached. Try again shortly."
        assert (await client.get("/v2/health/live")).status_code == 200


async def test_without_an_index_the_answer_says_what_to_do(service: Running, tmp_path: Path) -> None:
    with serving("vectorstore", INDEX_ROOT=str(tmp_path), EMBEDDER_URL=service.upstreams.url) as vectorstore:
        async with between(service.upstreams, VECTORSTORE_URL=vectorstore) as client:
            for path, body in BODIES.items():
                response = await client.post(path, json=body)
                assert response.status_code == 503
                assert response.headers["retry-after"]
                assert "kserve-rag ingest" in message(response)
            assert "kserve-rag ingest" in message(await client.get("/v2/models/rag/ready"))
            without = await client.post(GENERATE, json={"text_input": Q, "retrieval": False})
            assert without.json()["text_output"] == "The warranty lasts three years."


async def test_a_vectorstore_that_hangs_costs_its_share_of_the_deadline(service: Running) -> None:
    service.upstreams.vectorstore = "hang"
    async with between(service.upstreams, RETRIEVAL_TIMEOUT_S="0.2", TIMEOUT_S="3600") as client:
        response = await client.post(GENERATE, json={"text_input": Q})
    assert (response.status_code, message(response)) == (504, "The vectorstore did not respond in time.")


async def test_credentials_go_to_the_upstreams_that_are_named(service: Running, embedder: LoopbackEmbedder) -> None:
    named = {"FORWARD_AUTHORIZATION": "predictor, embedder", "EMBEDDER_URL": embedder.url}
    sent = {"authorization": "Bearer me"}
    async with between(service.upstreams, **named) as client:
        await client.post(GENERATE, json={"text_input": Q}, headers=sent)
        await client.post("/v1/embeddings", json={"model": "minilm", "input": Q}, headers=sent)
    received = {upstream: {k.lower(): v for k, v in headers.items()} for upstream, headers, _ in service.upstreams.seen}
    assert {upstream: headers.get("authorization") for upstream, headers in received.items()} == {
        "vectorstore": None,
        "predictor": "Bearer me",
    }
    assert embedder.headers["authorization"] == "Bearer me"
