"""Bad input on the running graph: the protocol's error shape, the field, the limit; the connection stays usable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

V1, V2, GENERATE, STREAM, CHAT = (
    "/v1/models/rag:predict",
    "/v2/models/rag/infer",
    "/v2/models/rag/generate",
    "/v2/models/rag/generate_stream",
    "/v1/chat/completions",
)
ROUTES = (V1, V2, GENERATE, STREAM, CHAT, "/openai/v1/chat/completions")
Q = "How long is the warranty?"
USER = [{"role": "user", "content": Q}]
TEXT = {"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [Q]}


@pytest.fixture(autouse=True)
def usable_afterwards(rag: httpx.Client) -> Iterator[None]:
    def port() -> int:
        stream = rag.get("/v2/health/live").extensions["network_stream"]
        return int(stream.get_extra_info("client_addr")[1])

    before = port()
    yield
    assert port() == before, "the connection was dropped"


def fault(path: str, response: httpx.Response) -> tuple[str, str | None]:
    """Message and field of an error in the shape of its protocol."""
    body = response.json()
    if "/chat/" in path:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return body["error"]["message"], body["error"]["param"]
    assert isinstance(body["error"], str)
    assert set(body) <= {"error", "code", "field"}
    return body["error"], body.get("field")


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "content", [b"{", b"", b'{"a": "\xff"}', b"[1, 2]", b'"text"', b"[" * 200_000, b'{"instances": [{"input": NaN}]}']
)
def test_bodies_that_are_not_json_objects(rag: httpx.Client, path: str, content: bytes) -> None:
    response = rag.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert fault(path, response)[0]


@pytest.mark.parametrize(
    ("path", "body", "field", "told"),
    [
        (V1, {}, "instances", "missing"),
        (V1, {"instances": []}, "instances", "1 or more"),
        (V1, {"instances": "x"}, "instances", "list"),
        (V1, {"instances": [{"input": Q}] * 33}, "instances", "at most 32"),
        (V1, {"instances": [{}]}, "instances[0].input", "missing"),
        (V1, {"instances": [{"input": ""}]}, "instances[0].input", "empty"),
        (V1, {"instances": [{"input": 5}]}, "instances[0].input", "text"),
        (V1, {"instances": [{"input": Q}, {"input": Q, "numdocs": 1}]}, "instances[1].numdocs", "mean num_docs?"),
        (V1, {"instances": [{"input": Q, "temperature": -0.1}]}, "instances[0].temperature", "0.0 or more (got -0.1)"),
        (V1, {"instances": [{"input": Q, "temperature": "hot"}]}, "instances[0].temperature", "number"),
        (V1, {"instances": [{"input": Q, "max_tokens": 1.5}]}, "instances[0].max_tokens", "whole number"),
        (V1, {"instances": [{"input": Q, "max_tokens": True}]}, "instances[0].max_tokens", "whole number"),
        (V1, {"instances": [{"input": Q, "num_docs": 101}]}, "instances[0].num_docs", "100 or less (got 101)"),
        (V1, {"instances": [{"input": Q, "top_p": 1.01}]}, "instances[0].top_p", "1.0 or less"),
        (V1, {"instances": [{"input": Q, "stop": [""]}]}, "instances[0].stop[0]", "empty"),
        (V1, {"instances": [{"input": "a" * 100_001}]}, "instances[0].input", "at most 100000 characters"),
        (V1, {"instances": [{"input": Q, "filters": {"nope": 1}}]}, "filters", "nope"),
        (V1, {"instances": [{"input": Q, "filters": {"$or": 1}}]}, "filters", "$or"),
        (V2, {}, "inputs", "required"),
        (V2, {"inputs": []}, "inputs", "empty"),
        (V2, {"inputs": [{**TEXT, "name": "question"}]}, "question", "unknown tensor"),
        (V2, {"inputs": [{**TEXT, "shape": [2, 1]}]}, "input", "does not fit shape [2, 1]"),
        (V2, {"inputs": [{**TEXT, "datatype": "FP32"}]}, "input", "does not fit"),
        (V2, {"inputs": [{**TEXT, "datatype": "FP16", "data": [1.0]}]}, None, "FP16"),
        (
            V2,
            {"inputs": [TEXT, {"name": "top_p", "datatype": "FP32", "shape": [1], "data": [7]}]},
            "top_p",
            "1.0 or less",
        ),
        (V2, {"inputs": [TEXT], "outputs": [{"name": "tokens"}]}, "tokens", "unknown tensor"),
        (V2, {"inputs": [TEXT], "parameters": {"top_k": "many"}}, "top_k", "whole number"),
        (GENERATE, {}, "text_input", "missing"),
        (GENERATE, {"text_input": Q, "seed": -1}, "seed", "0 or more"),
        (
            GENERATE,
            {"text_input": Q, "history": [{"role": "judge", "content": ""}]},
            "history[0].role",
            "'user' or 'assistant'",
        ),
        (GENERATE, {"text_input": Q, "context": 5}, "context", "text"),
        (GENERATE, {"text_input": Q, "filters": []}, "filters", "object"),
        (STREAM, {"text_input": Q, "bogus": 1}, "bogus", "unknown field: remove it"),
        (STREAM, {"text_input": Q, "temprature": 1}, "temprature", "did you mean temperature?"),
        (STREAM, {"text_input": Q, "presence_penalty": 3}, "presence_penalty", "2.0 or less"),
        (CHAT, {"model": "rag"}, "messages", "missing"),
        (CHAT, {"model": "rag", "messages": []}, "messages", "1 or more"),
        (CHAT, {"messages": USER}, "model", "missing"),
        (CHAT, {"model": "rag", "messages": [{"role": "user", "content": " "}]}, "messages", "empty"),
        (
            CHAT,
            {"model": "rag", "messages": [*USER, {"role": "assistant", "content": "x"}]},
            "messages",
            "last message",
        ),
        (CHAT, {"model": "rag", "messages": USER, "temperature": 2.5, "stream": True}, "temperature", "2.0 or less"),
    ],
)
def test_invalid_fields_are_named(
    rag: httpx.Client, path: str, body: dict[str, Any], field: str | None, told: str
) -> None:
    response = rag.post(path, json=body)
    message, named = fault(path, response)
    assert response.status_code == 400, message
    assert told in message
    if field is not None:
        assert named is not None
        assert named.startswith(field)


@pytest.mark.parametrize("path", ROUTES)
def test_an_index_that_is_not_served(rag: httpx.Client, path: str) -> None:
    named = ["default", "else"]
    tensor = {"name": "collections", "datatype": "BYTES", "shape": [1], "data": [json.dumps(named)]}
    bodies: dict[str, dict[str, Any]] = {
        V1: {"instances": [{"input": Q, "collections": named}]},
        V2: {"inputs": [TEXT, tensor]},
        GENERATE: {"text_input": Q, "collections": named},
        STREAM: {"text_input": Q, "collections": named},
    }
    chat = {"model": "rag", "messages": USER, "collections": named}
    streams = [{**chat, "stream": True}] if "/chat/" in path else []
    for body in (bodies.get(path, chat), *streams):
        response = rag.post(path, json=body)
        assert response.status_code == 400
        assert fault(path, response) == (
            "collections: there is no collection 'else' here; served are default.",
            "collections",
        )


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/documents/nope", "document_id"),
        ("/v1/documents/a%2Fb", "document_id"),
        ("/v1/documents/%2e%2e%2f%2e%2e", "document_id"),
        (f"/v1/documents/{'x' * 5000}", "document_id"),
        ("/v1/documents/nope?version=20000101T000000-000000", "version"),
        ("/v1/documents/nope?version=..%2Felse", "version"),
        ("/v1/documents/nope?collection=else", "collection"),
        ("/v1/documents/nope?collection=", "collection"),
    ],
)
def test_missing_documents(rag: httpx.Client, path: str, field: str) -> None:
    response = rag.get(path)
    assert response.status_code == 404
    message, named = fault(path, response)
    assert named == field
    assert len(message) < 300


def test_nan_and_infinity(rag: httpx.Client) -> None:
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        for path, body in (
            (V1, '{"instances": [{"input": "q", "temperature": %s}]}'),
            (GENERATE, '{"text_input": "q", "temperature": %s}'),
            (CHAT, '{"model": "rag", "messages": [{"role": "user", "content": "q"}], "top_p": %s}'),
            (
                V2,
                '{"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": ["q"]},'
                '{"name": "temperature", "datatype": "FP32", "shape": [1], "data": [%s]}]}',
            ),
        ):
            response = rag.post(path, content=body % number, headers={"content-type": "application/json"})
            assert response.status_code == 400, response.text


@pytest.mark.parametrize(
    "path", ["/v1/models/nope:predict", "/v2/models/nope/infer", "/v2/models/nope/generate_stream"]
)
def test_unknown_models(rag: httpx.Client, path: str) -> None:
    response = rag.post(path, json={"instances": [{"input": Q}], "inputs": [TEXT]})
    message, field = fault(path, response)
    assert (response.status_code, field) == (404, "model")
    assert "'rag'" in message


def test_unknown_chat_model(rag: httpx.Client) -> None:
    response = rag.post(CHAT, json={"model": "gpt-4", "messages": USER})
    assert response.status_code == 404
    assert fault(CHAT, response)[1] == "model"


def test_a_question_longer_than_the_window(rag: httpx.Client) -> None:
    long = "How long is the warranty of this logger? " * 1200
    for path, body in (
        (GENERATE, {"text_input": long}),
        (V1, {"instances": [{"input": long}]}),
        (CHAT, {"model": "rag", "messages": [{"role": "user", "content": long}]}),
        (GENERATE, {"text_input": Q, "context": long}),
        (STREAM, {"text_input": Q, "context": "Three years.", "max_tokens": 100_000}),
    ):
        response = rag.post(path, json=body)
        message, _ = fault(path, response)
        assert response.status_code == 400, message
        assert "8192" in message or "32768" in message


def test_a_deadline_that_cannot_be_kept(rag: httpx.Client) -> None:
    response = rag.post(GENERATE, json={"text_input": Q, "max_tokens": 500}, headers={"x-request-timeout-ms": "30"})
    assert response.status_code == 504
    # Either the service itself notices, or the client of the upstream that was waited for.
    assert re.search("deadline|in time", fault(GENERATE, response)[0])
