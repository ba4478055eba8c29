"""The running transformer with upstreams that are down, slow, or answer nonsense; what it passes on; who leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from grpc import aio
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from evaluation.calibration import fit
from kserve_rag.models.store import ModelStore
from kserve_rag.settings import Settings
from tests.fakes.upstreams import EMBEDDER, PASSAGE, WORDS, Upstreams
from tests.processes import free_ports, program, until
from transformer.answerability import DEFAULT_MODEL
from transformer.wire import NOT_TENSORS, OUTPUT_TENSORS, OutcomeFields, RetrievalFields, SourceFields

pytestmark = pytest.mark.asyncio(loop_scope="module")

Q = "How long is the warranty?"
GENERATE, STREAM, V1, CHAT = (
    "/v2/models/rag/generate",
    "/v2/models/rag/generate_stream",
    "/v1/models/rag:predict",
    "/v1/chat/completions",
)
BODIES: dict[str, dict[str, Any]] = {
    GENERATE: {"text_input": Q},
    STREAM: {"text_input": Q},
    V1: {"instances": [{"input": Q}]},
    CHAT: {"model": "rag", "messages": [{"role": "user", "content": Q}]},
}
CODES = {401: "unauthorized", 502: "bad_upstream", 503: "not_ready", 504: "deadline_exceeded"}


@dataclass
class Running:
    upstreams: Upstreams
    client: httpx.AsyncClient


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service() -> AsyncIterator[Running]:
    upstreams = Upstreams()
    async with upstreams.running(), transformer(upstreams.url, upstreams.url) as client:
        yield Running(upstreams, client)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def patient(service: Running) -> AsyncIterator[Running]:
    """The same upstreams behind a service whose deadline no test meets."""
    url = service.upstreams.url
    async with transformer(url, url, TIMEOUT_S="120") as client:
        yield Running(service.upstreams, client)


@contextlib.asynccontextmanager
async def running(room: str, settings: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A room's program, on a free port that replaces `{port}`."""
    (port,) = free_ports(1)
    variables = {f"{room.upper()}_{name}": value.format(port=port) for name, value in settings.items()}
    command, url = [sys.executable, "-m", room], f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        start = program(command, f"{url}/v2/health/live", {**os.environ, **variables})
        await asyncio.to_thread(stack.enter_context, start)  # its upstreams answer from this loop
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client


def transformer(
    vectorstore: str, predictor: str, **more: str
) -> contextlib.AbstractAsyncContextManager[httpx.AsyncClient]:
    settings = {
        "HOST": "127.0.0.1",
        "HTTP_PORT": "{port}",
        "ENABLE_GRPC": "false",
        "VECTORSTORE_URL": vectorstore,
        "PREDICTOR_URL": predictor,
        "PROMPT_FORMAT": str(ModelStore(Settings().models).materialise("smollm2-135m", "llm").path),
        "TIMEOUT_S": "3",
        **more,
    }
    return running("transformer", settings)


@pytest.fixture(autouse=True)
def well_behaved(service: Running) -> None:
    service.upstreams.vectorstore = service.upstreams.predictor = "answer"
    service.upstreams.seen.clear()
    service.upstreams.left.clear()


def message(response: httpx.Response) -> str:
    error = response.json()["error"]
    return str(error["message"] if isinstance(error, dict) else error)


async def test_indexes_and_documents_are_those_of_the_vectorstore(service: Running) -> None:
    index = {"name": "default", "version": "v1", "documents": 1, "chunks": 1, "embedder": EMBEDDER}
    default = {**index, "examples": [Q], "reason": None}
    other = {**index, "name": "other", "examples": [], "reason": "Another embedder."}
    service.upstreams.browsed.clear()
    sent = {"authorization": "Bearer me", "x-request-id": "r-1", "x-request-timeout-ms": "2000"}
    response = await service.client.get("/v1/indexes", headers=sent)
    assert response.json() == {"default": "default", "indexes": [default, other], "reason": None}
    assert response.headers["x-request-id"] == "r-1"
    path = "/v1/documents/d?version=v1&collection=a%26b"
    document = (await service.client.get(path, headers=sent)).json()
    assert (document["text"], document["collection"], document["index_version"]) == (PASSAGE["text"], "a&b", "v1")
    assert [asked for asked, _ in service.upstreams.browsed] == ["/v1/indexes", path]
    for _, headers in service.upstreams.browsed:
        lower = {name.lower(): value for name, value in headers.items()}
        assert (lower["authorization"], lower["x-request-id"]) == ("Bearer me", "r-1")
        assert int(lower["x-request-timeout-ms"]) <= 2000
    service.upstreams.published, service.upstreams.reason = False, "Build one."
    try:
        nothing = (await service.client.get("/v1/indexes")).json()
    finally:
        service.upstreams.published, service.upstreams.reason = True, None
    assert nothing == {"default": "default", "indexes": [other], "reason": "Build one."}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/documents/nope", "document_id"),
        ("/v1/documents/%2e%2e", "document_id"),
        ("/v1/documents/a%2Fb%3Fversion=v1", "document_id"),
        ("/v1/documents/d?version=v0", "version"),
    ],
)
async def test_what_the_vectorstore_does_not_have_is_not_found(service: Running, path: str, field: str) -> None:
    response = await service.client.get(path)
    assert response.status_code == 404
    assert response.json() == {"error": "There is none.", "code": "not_found", "field": field}


@pytest.mark.parametrize("path", ["/v1/indexes", "/v1/documents/d"])
@pytest.mark.parametrize(
    ("behaviour", "status"), [("fail", 502), ("garbage", 502), ("hang", 504), ("busy", 503), ("unauthorized", 401)]
)
async def test_faults_while_browsing(service: Running, path: str, behaviour: Any, status: int) -> None:
    service.upstreams.documents_answer = service.upstreams.indexes_answer = behaviour
    try:
        response = await service.client.get(path, headers={"x-request-timeout-ms": "300"} if status == 504 else {})
    finally:
        service.upstreams.documents_answer = service.upstreams.indexes_answer = "answer"
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
    began = time.monotonic()
    response = await service.client.post(path, json=BODIES[path])
    late = time.monotonic() - began > 0.5 and response.status_code == 200
    if path == STREAM and upstream == "predictor" and (late or behaviour == "hang"):
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
    assert time.monotonic() - began < 10
    service.upstreams.vectorstore = service.upstreams.predictor = "answer"
    assert (await service.client.post(path, json=BODIES[path])).status_code == 200


async def test_what_breaks_in_the_middle_of_a_stream_is_its_last_event(service: Running) -> None:
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


async def test_headers_travel_with_their_own_request_only(patient: Running) -> None:
    def sent(number: int) -> dict[str, str]:
        return {
            "authorization": f"Bearer {number}",
            "x-request-id": f"request-{number}",
            "traceparent": f"00-{number:032x}-{number:016x}-01",
            "cookie": "session=1",
        }

    callers = [
        patient.client.post(GENERATE, json={"text_input": f"{Q} {n}"}, headers=sent(n) if n % 2 else {})
        for n in range(20)
    ]
    await asyncio.gather(*callers)
    assert len(patient.upstreams.seen) == 40
    for upstream, headers, body in patient.upstreams.seen:
        lower = {name.lower(): value for name, value in headers.items()}
        question = body["instances"][0]["input"] if upstream == "vectorstore" else body["text_input"]
        number = int(question.split("?")[1].split()[0].split("<")[0])
        assert lower.get("authorization") == (f"Bearer {number}" if number % 2 else None)
        assert lower["x-request-id"] == (f"request-{number}" if number % 2 else lower["x-request-id"])
        assert lower.get("traceparent") == (sent(number)["traceparent"] if number % 2 else None)
        assert "cookie" not in lower
        assert 0 < int(lower["x-request-timeout-ms"]) <= 120_000


@pytest.mark.parametrize("path", BODIES)
async def test_a_leaving_client_ends_the_generation(patient: Running, path: str) -> None:
    upstreams = patient.upstreams
    upstreams.predictor = "endless"
    body = {**BODIES[path], "stream": True} if path == CHAT else BODIES[path]
    if path in (STREAM, CHAT):
        async with patient.client.stream("POST", path, json=body) as response:
            async for _ in response.aiter_lines():
                break
    else:
        call = asyncio.create_task(patient.client.post(path, json=body))
        await asyncio.to_thread(until, lambda: "predictor" in {name for name, _, _ in upstreams.seen})
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    # Well before the deadline of 120 s would end it.
    await asyncio.wait_for(upstreams.left.wait(), 30)


async def test_a_closed_port_is_503_at_once() -> None:
    (closed,) = free_ports(1)
    upstreams = Upstreams()
    async with upstreams.running(), transformer(upstreams.url, f"http://127.0.0.1:{closed}") as client:
        for path, body in BODIES.items():
            response = await client.post(path, json=body)
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert "predictor cannot be reached" in message(response)
        ready = await client.get("/v2/models/rag/ready")
        assert ready.status_code == 503
        assert message(ready) == "The predictor cannot be reached. Try again shortly."
        assert (await client.get("/v2/health/live")).status_code == 200


async def test_without_an_index_the_answer_says_what_to_do(tmp_path: Path) -> None:
    upstreams = Upstreams()
    async with upstreams.running():
        settings = {"HOST": "127.0.0.1", "HTTP_PORT": "{port}", "ENABLE_GRPC": "false", "INDEX_ROOT": str(tmp_path)}
        settings["EMBEDDER_URL"] = upstreams.url
        async with (
            running("vectorstore", settings) as vectorstore,
            transformer(str(vectorstore.base_url), upstreams.url) as client,
        ):
            for path, body in BODIES.items():
                response = await client.post(path, json=body)
                assert response.status_code == 503
                assert response.headers["retry-after"]
                assert "kserve-rag ingest" in message(response)
            assert "kserve-rag ingest" in message(await client.get("/v2/models/rag/ready"))
            without = await client.post(GENERATE, json={"text_input": Q, "retrieval": False})
            assert without.json()["text_output"] == "The warranty lasts three years."


HISTORY = [
    {"role": "user", "content": "How long is the warranty?"},
    {"role": "assistant", "content": "The warranty lasts three years."},
]


@pytest.mark.parametrize(
    ("rewritten", "searched"),
    [
        (("How long is the", " warranty for batteries?"), "How long is the warranty for batteries?"),
        # Words that nobody has said: small models make them up.
        (("What is the", " capital of France?"), "How long is the warranty?\nAnd for batteries?"),
        (("",), "How long is the warranty?\nAnd for batteries?"),
    ],
)
async def test_the_llm_condenses_only_to_words_that_were_said(rewritten: tuple[str, ...], searched: str) -> None:
    upstreams = Upstreams()
    upstreams.words = rewritten
    async with upstreams.running(), transformer(upstreams.url, upstreams.url, CONDENSE="llm") as client:
        body = {"text_input": "And for batteries?", "history": HISTORY}
        answer = (await client.post(GENERATE, json=body)).json()
        assert answer["query"] == searched
        assert "condense" in answer["timings"]
        (sent,) = [body["instances"][0]["input"] for name, _, body in upstreams.seen if name == "vectorstore"]
        assert sent == searched
        alone = (await client.post(GENERATE, json={"text_input": "And for batteries?"})).json()
        assert alone["query"] == "And for batteries?"
        long = "And for batteries? " * 60
        assert (await client.post(GENERATE, json={**body, "text_input": long})).json()["query"] == long


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]


async def cited(upstreams: Upstreams, **variables: str) -> dict[str, Any]:
    """The citations of one question."""
    async with transformer(upstreams.url, upstreams.url, **variables) as client:
        response = await client.post(GENERATE, json={"text_input": Q})
        assert response.status_code == 200
        citations: dict[str, Any] = response.json()["citations"]
        return citations


async def test_citations_on_every_route(service: Running) -> None:
    upstreams = service.upstreams
    upstreams.words = ("The warranty", " lasts three", " years [4].", " Bananas are", " yellow [1].")
    try:
        whole = (await service.client.post(GENERATE, json={"text_input": Q})).json()
        stream = events_of(await service.client.post(STREAM, json={"text_input": Q}))
        v1 = (await service.client.post(V1, json=BODIES[V1])).json()["predictions"][0]
        chat = (await service.client.post(CHAT, json=BODIES[CHAT])).json()
        chunks = events_of(await service.client.post(CHAT, json={**BODIES[CHAT], "stream": True}))
        inputs = [{"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [Q]}]
        v2 = (await service.client.post("/v2/models/rag/infer", json={"inputs": inputs})).json()
        off = {"name": "citations", "datatype": "BYTES", "shape": [1, 1], "data": ["off"]}
        unchecked = (await service.client.post("/v2/models/rag/infer", json={"inputs": [*inputs, off]})).json()
        refused = await service.client.post(GENERATE, json={"text_input": Q, "citations": "maybe"})
        plain = (await service.client.post(GENERATE, json={"text_input": Q, "citations": "off"})).json()
    finally:
        upstreams.words = WORDS
    citations = whole["citations"]
    assert whole["text_output"] == citations["text"] == "The warranty lasts three years [1]. Bananas are yellow."
    assert [statement["verdict"] for statement in citations["statements"]] == ["supported", "unsupported"]
    (quote,) = citations["statements"][0]["quotes"]
    assert upstreams.documents["d"][quote["span"]["start"] : quote["span"]["end"]] == quote["text"]
    assert citations["markers"] == {"kept": 0, "mended": 1, "dropped": 1}
    assert whole["timings"]["citations"] >= 0
    # A stream has sent what the model wrote; its last event has the answer as it stands.
    assert "".join(event.get("text_output", "") for event in stream[1:-1]) == "".join(
        ("The warranty", " lasts three", " years [4].", " Bananas are", " yellow [1].")
    )
    assert "citations" not in stream[0]
    assert stream[-1]["citations"] == v1["citations"] == chat["citations"] == chunks[-1]["citations"] == citations
    assert chat["choices"][0]["message"]["content"] == v1["text_output"] == citations["text"]
    tensors = {tensor["name"]: tensor["data"][0] for tensor in v2["outputs"]}
    assert json.loads(tensors["citations"]) == citations
    tensors = {tensor["name"]: tensor["data"][0] for tensor in unchecked["outputs"]}
    assert tensors["citations"] == "null"
    assert tensors["text_output"].endswith("yellow [1].")
    assert (refused.status_code, refused.json()["field"]) == (400, "citations")
    assert plain["citations"] is None


async def test_every_protocol_carries_every_field_of_an_answer(service: Running) -> None:
    start, end = SourceFields.model_fields | RetrievalFields.model_fields, OutcomeFields.model_fields
    fields = start | end
    client = service.client
    assert fields.keys() <= (await client.post(GENERATE, json=BODIES[GENERATE])).json().keys()
    assert fields.keys() <= (await client.post(V1, json=BODIES[V1])).json()["predictions"][0].keys()
    assert fields.keys() <= (await client.post(CHAT, json=BODIES[CHAT])).json().keys()
    for stream in (
        await client.post(STREAM, json=BODIES[STREAM]),
        await client.post(CHAT, json={**BODIES[CHAT], "stream": True}),
    ):
        first, *_, last = events_of(stream)
        assert start.keys() <= first.keys()
        assert end.keys() <= last.keys()
        assert {"sources", "timings"} <= last.keys()
    inputs = [{"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [Q]}]
    v2 = (await client.post("/v2/models/rag/infer", json={"inputs": inputs})).json()["outputs"]
    assert [tensor["name"] for tensor in v2] == list(OUTPUT_TENSORS)
    assert fields.keys() <= OUTPUT_TENSORS.keys() | NOT_TENSORS


async def test_an_answer_takes_one_call_to_the_vectorstore(service: Running) -> None:
    service.upstreams.browsed.clear()
    assert (await service.client.post(GENERATE, json={"text_input": Q})).json()["citations"]["statements"][0]["quotes"]
    assert [name for name, _, _ in service.upstreams.seen] == ["vectorstore", "predictor"]
    assert service.upstreams.browsed == []


async def test_a_quote_in_place_of_an_answer_is_a_setting() -> None:
    upstreams = Upstreams()
    upstreams.words = ("Ten", " decades.")
    async with upstreams.running():
        assert (await cited(upstreams))["kind"] == "model"
        citations = await cited(upstreams, CITATIONS="quote")
    assert citations["kind"] == "quote"
    assert citations["text"] == "The documents say: “The warranty lasts three years.” [1]"


# Refusals


def calibration(threshold: float) -> dict[str, Any]:
    """A calibration as `kserve-rag eval --calibrate` writes it."""
    made = fit([threshold] * 40, [True] * 40, rate=0.1, model=DEFAULT_MODEL, index_version="v1", embedder=EMBEDDER)
    held: dict[str, Any] = json.loads(made.json())
    return held


async def test_a_refusal_has_no_sources_but_the_nearest_topics(service: Running) -> None:
    plain = (await service.client.post(GENERATE, json={"text_input": Q})).json()
    assert (plain["refused"], plain["topics"], len(plain["sources"])) == (False, [], 1)
    assert 0.2 < plain["answerability"] < 1
    topic = {"title": "Warranty", "heading": "", "url": None, "document_id": "d"}
    cut = [{"chunk_id": "c", "document_id": "d", "reason": "not_answered"}]
    body = {"text_input": Q, "min_score": 1}
    service.upstreams.seen.clear()
    refused = (await service.client.post(GENERATE, json=body)).json()
    assert refused["text_output"].startswith("I don't know")
    assert (refused["refused"], refused["sources"], refused["topics"], refused["cut"]) == (True, [], [topic], cut)
    assert refused["answerability"] == plain["answerability"]
    assert [name for name, _, _ in service.upstreams.seen] == ["vectorstore"]  # the model is not asked
    streamed = (await service.client.post(STREAM, json=body)).text
    first, *_, last = (json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: "))
    assert (first["answerability"], first["sources"]) == (plain["answerability"], [])
    assert (last["refused"], last["sources"], last["topics"]) == (True, [], [topic])
    chat = (await service.client.post(CHAT, json={**BODIES[CHAT], "min_score": 1})).json()
    assert (chat["refused"], chat["sources"], chat["topics"]) == (True, [], [topic])
    tensors = [
        {"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [Q]},
        {"name": "min_score", "datatype": "FP32", "shape": [1], "data": [1.0]},
    ]
    v2 = (await service.client.post("/v2/models/rag/infer", json={"inputs": tensors})).json()
    found = {output["name"]: output["data"][0] for output in v2["outputs"]}
    assert (found["refused"], json.loads(found["topics"])) == (True, [topic])
    assert found["answerability"] == pytest.approx(plain["answerability"])


@pytest.mark.parametrize("parameters", [{"min_score": 0}, {"min_score": 1, "refuse": False}, {"refuse": False}])
async def test_refusing_is_switched_off_by_request(service: Running, parameters: dict[str, Any]) -> None:
    answer = (await service.client.post(GENERATE, json={"text_input": Q, **parameters})).json()
    assert (answer["refused"], answer["text_output"]) == (False, "".join(WORDS))


@pytest.mark.parametrize(
    ("held", "refused"),
    [(None, False), (calibration(0.999), True), (calibration(0.001), False), ({"format": 1}, False)],
)
async def test_the_calibration_of_a_prediction_decides(
    service: Running, held: dict[str, Any] | None, refused: bool
) -> None:
    service.upstreams.calibration = held
    try:
        answer = (await service.client.post(GENERATE, json={"text_input": Q})).json()
    finally:
        service.upstreams.calibration = None
    assert answer["refused"] is refused


async def test_parameters_of_a_grpc_request_are_those_of_rest(service: Running) -> None:
    request = ModelInferRequest(model_name="rag")
    question = request.inputs.add(name="input", datatype="BYTES", shape=[1, 1])
    question.contents.bytes_contents.append(Q.encode())
    request.parameters["max_tokens"].int64_param = 7
    request.parameters["refuse"].bool_param = False
    request.parameters["filters"].string_param = '{"lang": "en"}'
    (port,) = free_ports(1)
    url = service.upstreams.url
    async with (
        transformer(url, url, ENABLE_GRPC="true", GRPC_PORT=str(port)),
        aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        service.upstreams.seen.clear()
        answer = await GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
        assert answer.outputs[0].name == "text_output"
        (_, _, searched), (_, _, generated) = service.upstreams.seen
        assert searched["instances"][0]["filters"] == {"lang": "en"}
        assert generated["sampling_param_max_tokens"] == 7


async def test_more_ways_to_search_are_passed_on(service: Running) -> None:
    service.upstreams.seen.clear()
    more = {"collections": ["a", "b"], "neighbours": 2, "diversity": 0.5, "num_docs": 7}
    await service.client.post(GENERATE, json={"text_input": Q, **more})
    (searched,) = (body for name, _, body in service.upstreams.seen if name == "vectorstore")
    assert {name: searched["instances"][0][name] for name in more} == more
    for wrong, field in (
        ({"min_score": 2}, "min_score"),
        ({"refuse": "no"}, "refuse"),
        ({"neighbours": 9}, "neighbours"),
    ):
        answer = await service.client.post(GENERATE, json={"text_input": Q, **wrong})
        assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_an_openai_server_is_sent_messages_without_a_tokenizer(service: Running) -> None:
    url, earlier = service.upstreams.url, "Does the lasting warranty cover three years?"
    history = [{"role": "user", "content": earlier}, {"role": "assistant", "content": "<|im_end|>Yes."}]
    settings = {"PREDICTOR_LAYOUT": "openai_chat", "PROMPT_FORMAT": "", "CONTEXT_TOKENS": "2048", "CONDENSE": "llm"}
    async with transformer(url, url, **settings) as client:
        answer = (await client.post(GENERATE, json={"text_input": Q, "history": history})).json()
    assert answer["text_output"] == "".join(WORDS)
    assert [source["text"] for source in answer["sources"]] == [PASSAGE["text"]]
    assert [one["verdict"] for one in answer["citations"]["statements"]] == ["supported"]
    rewrite, prompt = (sent for room, _, sent in service.upstreams.seen if room == "predictor")
    assert [message["role"] for message in rewrite["messages"]] == ["system", "user"]
    assert f"user: {Q}" in rewrite["messages"][1]["content"]
    system, *turns, last = prompt["messages"]
    assert (system["role"], last["role"]) == ("system", "user")
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
    assert turns[0]["content"] == earlier
    assert "<|im_end|>" not in turns[1]["content"]
    assert last["content"].startswith(f'[1] Warranty\n"""\n{PASSAGE["text"]}\n"""')
    assert last["content"].endswith(Q)
    assert prompt["model"] == "gpt"
    assert "prompt" not in prompt
