"""The public Client against the running graph, and against servers that fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from kserve_rag import AsyncClient, Client, EndEvent, SourcesEvent, TextEvent
from kserve_rag.client.protocol import STATUSES
from kserve_rag.errors import (
    ClientError,
    CredentialsError,
    InterruptedStreamError,
    RequestError,
    ServiceFailedError,
    TimedOutError,
    UnavailableError,
    UnreachableError,
)
from tests.fakes.replies import answering, replying

QUESTION = "What does error code E08 mean?"


@pytest.fixture
def client(graph: Any) -> Iterator[Client]:
    with Client(graph.transformer, vectorstore_url=graph.vectorstore) as client:
        yield client


def test_an_answer_has_sources_with_spans(graph: Any, client: Client) -> None:
    answer = client.ask(QUESTION, num_docs=2, max_tokens=24, temperature=0)
    assert answer.text_output
    assert answer.index_version == graph.index_version
    assert answer.usage.completion_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert {"retrieval", "total"} <= answer.timings.keys()
    assert any("flash memory is full" in source.text for source in answer.sources)
    for source in answer.sources:
        assert source.span.end - source.span.start == len(source.text)


def test_a_stream_begins_with_sources_and_ends_with_usage(client: Client) -> None:
    events = list(client.stream(QUESTION, num_docs=2, max_tokens=16, temperature=0))
    assert isinstance(events[0], SourcesEvent)
    assert isinstance(events[-1], EndEvent)
    assert all(isinstance(event, TextEvent) for event in events[1:-1])
    text = "".join(event.text_output for event in events if isinstance(event, TextEvent))
    citations = events[-1].citations
    assert citations is not None
    assert (citations.text == text) is (citations.kind == "model")
    assert citations.text == client.ask(QUESTION, num_docs=2, max_tokens=16, temperature=0).text_output


def test_a_stream_can_be_closed_early(client: Client) -> None:
    stream = client.stream(QUESTION, max_tokens=256)
    assert isinstance(next(stream), SourcesEvent)
    stream.close()  # type: ignore[attr-defined]
    assert client.ask(QUESTION, max_tokens=1).usage.completion_tokens <= 1


def test_zero_tokens_retrieve_only(client: Client) -> None:
    answer = client.ask(QUESTION, max_tokens=0)
    assert answer.text_output == ""
    assert answer.sources


def test_search_finds_the_passage_first(graph: Any, client: Client) -> None:
    passages = client.search(QUESTION, num_docs=3)
    assert len(passages) == 3
    assert "flash memory is full" in passages[0].text
    assert passages[0].index_version == graph.index_version
    assert [passage.score for passage in passages] == sorted((p.score for p in passages), reverse=True)


def test_search_modes_and_explanations(client: Client) -> None:
    found = client.retrieve(QUESTION, num_docs=1, mode="lexical", explain=True)
    (passage,) = found.passages
    assert passage.explain is not None
    assert "lexical" in passage.explain.signals
    assert passage.explain.terms
    assert found.cut
    assert found.index_version == passage.index_version
    assert client.search(QUESTION, num_docs=1, mode="lexical")[0].chunk_id == passage.chunk_id


def test_indexes_are_listed(graph: Any, client: Client) -> None:
    found = client.indexes()
    assert found.reason is None
    (index,) = found.indexes
    assert index.name == found.default
    assert index.version == graph.index_version


def test_models_are_listed_and_chosen(client: Client) -> None:
    (model,) = client.models()
    assert (model.id, model.display_name) == ("rag", "rag")
    assert client.ask("What does error code E08 mean?", model="rag", max_tokens=0).model_name == "rag"
    with pytest.raises(RequestError, match=r"there is no 'gpt-9'\. This service has 'rag'\."):
        client.ask("What does error code E08 mean?", model="gpt-9")


def test_spans_refer_to_the_stored_document(client: Client) -> None:
    passage = client.search(QUESTION, num_docs=1)[0]
    stored = client.document(passage.document_id, version=passage.index_version, collection=passage.collection)
    assert stored.text[passage.span.start : passage.span.end] == passage.text
    assert client.document(passage.document_id) == stored


def test_a_missing_document(client: Client) -> None:
    with pytest.raises(RequestError) as raised:
        client.document("no/such document?")
    assert raised.value.status == 404


def test_without_retrieval_there_are_no_sources(client: Client) -> None:
    assert client.ask("What is the capital of France?", retrieval=False, max_tokens=8).sources == []


def test_ready(client: Client) -> None:
    assert client.ready()


def test_a_bad_request_names_the_field(client: Client) -> None:
    with pytest.raises(RequestError) as raised:
        client.ask(QUESTION, temperature=9)
    assert raised.value.status == 400
    assert raised.value.field == "temperature"
    assert raised.value.code == "invalid_request"
    assert raised.value.request_id


def test_search_without_a_vectorstore_says_so(graph: Any) -> None:
    with Client(graph.transformer) as client, pytest.raises(RequestError, match="vectorstore_url"):
        client.search("anything")


async def test_the_async_client_does_the_same(graph: Any, client: Client) -> None:
    async with AsyncClient(graph.transformer, vectorstore_url=graph.vectorstore) as other:
        assert await other.ready()
        answer = await other.ask(QUESTION, num_docs=2, max_tokens=16, temperature=0)
        assert answer.text_output == client.ask(QUESTION, num_docs=2, max_tokens=16, temperature=0).text_output
        events = [event async for event in other.stream(QUESTION, num_docs=2, max_tokens=16, temperature=0)]
        assert isinstance(events[0], SourcesEvent)
        assert any(isinstance(event, TextEvent) for event in events)
        assert isinstance(events[-1], EndEvent)
        assert events[-1].citations == answer.citations
        passages = await other.search(QUESTION)
        assert [p.chunk_id for p in passages] == [p.chunk_id for p in client.search(QUESTION)]
        assert await other.document(passages[0].document_id) == client.document(passages[0].document_id)
        assert await other.indexes() == client.indexes()
        with pytest.raises(RequestError):
            await other.ask("", max_tokens=4)


def test_an_unreachable_server() -> None:
    with Client("http://127.0.0.1:9") as client:
        assert not client.ready()
        with pytest.raises(UnreachableError, match="kserve-rag status"):
            client.ask("anyone?")
        with pytest.raises(UnreachableError):
            list(client.stream("anyone?"))


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, RequestError, False),
        (401, CredentialsError, False),
        (403, CredentialsError, False),
        (404, RequestError, False),
        (413, RequestError, False),
        (429, UnavailableError, True),
        (500, ServiceFailedError, False),
        (502, UnavailableError, True),
        (503, UnavailableError, True),
        (504, TimedOutError, True),
        (507, ServiceFailedError, False),
    ],
)
def test_every_status_has_its_error(status: int, kind: type[ClientError], retryable: bool) -> None:
    body = json.dumps({"error": "no", "code": "some_code", "field": "num_docs"}).encode()
    with replying(answering(status, body, retry_after="7", x_request_id="r1")) as url, Client(url) as client:
        for ask in (lambda: client.ask("q"), lambda: list(client.stream("q"))):
            with pytest.raises(kind) as raised:
                ask()
            error = raised.value
            assert type(error) is kind
            assert (error.message, error.status, error.code, error.field) == ("no", status, "some_code", "num_docs")
            assert (error.request_id, error.retry_after_s, error.retryable) == ("r1", 7, retryable)


@pytest.mark.parametrize("body", [b"", b"[1]", b'{"text_output": 3}', b"\xff"])
def test_an_invalid_response_is_a_service_failure(body: bytes) -> None:
    with replying(answering(200, body)) as url, Client(url, vectorstore_url=url) as client:
        with pytest.raises(ServiceFailedError):
            client.ask("q")
        with pytest.raises(ServiceFailedError):
            client.search("q")


def test_an_error_in_the_middle_of_a_stream() -> None:
    body = b'data: {"text_output": "a"}\n\ndata: {"error": "too late", "code": "deadline_exceeded"}\n\n'
    with replying(answering(200, body, content_type="text/event-stream")) as url, Client(url) as client:
        stream = client.stream("q")
        assert next(stream) == TextEvent(text_output="a")
        with pytest.raises(TimedOutError, match="too late"):
            next(stream)


@pytest.mark.parametrize("event", ['{"text_output": "", "finish_reason": "later"}', "3", "{", '{"text_output": 3}'])
def test_an_invalid_event_is_a_service_failure(event: str) -> None:
    """An end of another version, for one: it is no text, and the answer did not break off."""
    body = f"data: {event}\n\n".encode()
    with (
        replying(answering(200, body, content_type="text/event-stream")) as url,
        Client(url) as client,
        pytest.raises(ServiceFailedError, match="an invalid event"),
    ):
        list(client.stream("q"))


def test_an_interrupted_stream_is_an_error() -> None:
    body = b'data: {"text_output": "a"}\n\n'
    with (
        replying(answering(200, body, content_type="text/event-stream")) as url,
        Client(url) as client,
        pytest.raises(InterruptedStreamError),
    ):
        list(client.stream("q"))


async def test_text_may_contain_line_separators() -> None:
    """Including those that end a line in Python but not in JSON."""
    text = "a\u2028b\x85c\u2029d"
    end = {"finish_reason": "stop", "refused": False, "sources": [], "usage": {}, "timings": {}}
    events = [{"text_output": text}, {"text_output": "", **end}]
    body = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events).encode()
    with replying(answering(200, body, content_type="text/event-stream")) as url:
        with Client(url) as client:
            assert next(client.stream("q")) == TextEvent(text_output=text)
        async with AsyncClient(url) as other:
            assert [type(event) async for event in other.stream("q")] == [TextEvent, EndEvent]


@pytest.mark.parametrize("url", ["localhost:8080", "http://host:port", "http://[", "ftp://host", "http://"])
def test_invalid_urls_are_refused(url: str) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(RequestError, match=r"is not a.* URL.*http://127\.0\.0\.1:8080"):
            make(url)


def test_a_redirect_names_its_target() -> None:
    moved = answering(308, b"", location="https://rag.example.org/")
    with replying(moved) as url, Client(url) as client:
        for ask in (lambda: client.ask("q"), lambda: list(client.stream("q"))):
            with pytest.raises(RequestError, match=r"https://rag\.example\.org/"):
                ask()


def test_credentials_are_sent() -> None:
    seen: dict[str, str] = {}

    def reply(request: BaseHTTPRequestHandler) -> None:
        seen.update({name.lower(): value for name, value in request.headers.items()})
        answering(503, b"{}")(request)

    with (
        replying(reply) as url,
        Client(url, token="t", headers={"x-request-id": "mine"}) as client,  # noqa: S106
        pytest.raises(UnavailableError),
    ):
        client.ask("q")
    assert seen["authorization"] == "Bearer t"
    assert seen["x-request-id"] == "mine"


def test_every_kind_of_service_error_is_known() -> None:
    assert STATUSES["not_ready"] == 503
    assert set(STATUSES.values()) >= {400, 401, 403, 404, 413, 429, 500, 502, 503, 504}
