"""Requests and responses of the services, without I/O: shared by `Client` and `AsyncClient`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from chassis.errors import ServiceError
from chassis.events import EventBuffer, EventStreamError, event_data
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
from transformer.wire import (
    Answer,
    AnswerMode,
    CitationMode,
    EndEvent,
    Indexes,
    Message,
    ModelList,
    SourcesEvent,
    TextEvent,
)
from vectorstore.wire import Mode, Prediction, StoredDocument

DEFAULT_URL = "http://127.0.0.1:8080"
"""Where `kserve-rag up` starts the transformer."""

Event = SourcesEvent | TextEvent | EndEvent
"""An event of a streamed answer: first the sources, then pieces of text, then the end with usage and final sources."""

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)


class Parameters(TypedDict, total=False):
    """Parameters of an answer. None and absent parameters are not sent: the service's default applies.

    Zeros are sent, and mean zero. `transformer.wire.GenerateRequest` has the limits.
    """

    history: Sequence[Message | Mapping[str, str]]
    """Earlier turns, oldest first: {"role": "user" or "assistant", "content": text}."""
    turns: str | None
    """`turns` of the previous answer or `EndEvent`: continues its conversation, better than `history`, because it also
    names the passages of earlier answers."""
    answers: AnswerMode | None
    """How to answer from documents: "quote" their sentences without the LLM; have the LLM "write"; or "auto": show what
    the LLM writes as far as the documents support it, else quote."""
    model: str | None
    """Name of the model that answers, one of `models()`."""
    template: str | None
    """Name of the prompt template, one of `GET /v1/templates`."""
    num_docs: int | None
    """Number of passages to answer from."""
    filters: Mapping[str, Any] | None
    """Conditions on the documents' metadata, in Chroma's `where` language."""
    context: str | None
    """Text to answer from instead of retrieved passages."""
    retrieval: bool
    """False: answer without documents."""
    collections: Sequence[str] | None
    """Indexes to search."""
    neighbours: int | None
    """Number of chunks before and after each passage to add to it."""
    diversity: float | None
    """Penalty for passages that repeat a better one, 0 … 1."""
    refuse: bool | None
    """Whether to refuse questions that the passages probably do not answer."""
    min_score: float | None
    """Answerability below which a question is refused, 0 … 1."""
    citations: CitationMode | None
    """Whether the answer is checked against its sources: "off" or "label"."""
    max_tokens: int | None
    """Maximum length of the answer in tokens. 0: retrieve passages and generate nothing."""
    temperature: float | None
    top_k: int | None
    top_p: float | None
    stop: Sequence[str]
    seed: int | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None


class SearchOptions(TypedDict, total=False):
    """Options of a search. None and absent options are not sent: the service's default applies.

    `vectorstore.wire.SearchInstance` has the limits.
    """

    num_docs: int | None
    """Number of passages."""
    filters: Mapping[str, Any] | None
    """Conditions on the documents' metadata, in Chroma's `where` language."""
    mode: Mode | None
    """Search mode: "dense", "lexical", "fused" or "rescored"."""
    min_score: float | None
    """Minimum score of a passage."""
    diversity: float | None
    """Penalty for passages that repeat a better one, 0 … 1."""
    neighbours: int | None
    """Number of chunks before and after each passage to add to it."""
    collections: Sequence[str] | None
    """Indexes to search."""
    explain: bool | None
    """Also return why each passage was found, and what was cut."""


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """An HTTP request, and how to read the response."""

    method: str
    url: str
    body: Mapping[str, Any] | None
    parse: Callable[[bytes], T]

    def read(self, response: httpx.Response) -> T:
        """The content of the response. Raises ClientError if it is an error or invalid."""
        if (failure := status_error(response)) is not None:
            raise failure
        return self.parse(response.content)


class Endpoints:
    """Builds the requests of one graph."""

    def __init__(self, url: str, vectorstore_url: str | None, model: str) -> None:
        """Raises RequestError if a URL is invalid."""
        self.url = _checked_url(url)
        self._vectorstore_url = vectorstore_url and _checked_url(vectorstore_url)
        self._model_url = f"{self.url}/v2/models/{quote(model, safe='')}"
        self.ready_url = f"{self._model_url}/ready"
        self.stream_url = f"{self._model_url}/generate_stream"

    def ask(self, question: str, parameters: Parameters) -> Request[Answer]:
        """A question whose answer comes whole."""
        return Request("POST", f"{self._model_url}/generate", self.generate_body(question, parameters), _parser(Answer))

    def generate_body(self, question: str, parameters: Parameters) -> dict[str, Any]:
        """The body of `generate` and `generate_stream`."""
        given = {name: value for name, value in parameters.items() if value is not None}
        history = parameters.get("history")
        if history is not None:
            given["history"] = [turn.model_dump() if isinstance(turn, Message) else dict(turn) for turn in history]
        return {"text_input": question, **given}

    def search(self, query: str, options: SearchOptions) -> Request[Prediction]:
        """A search of the vectorstore."""
        if self._vectorstore_url is None:
            raise RequestError(
                "This client has no vectorstore URL: set vectorstore_url (`kserve-rag status` shows the local one)."
            )
        given = {name: value for name, value in options.items() if value is not None}
        body = {"instances": [{"input": query, **given}]}
        parse = _parser(_Predictions)
        url = f"{self._vectorstore_url}/v1/models/vectorstore:predict"
        return Request("POST", url, body, lambda content: parse(content).predictions[0])

    def indexes(self) -> Request[Indexes]:
        """The list of indexes."""
        return Request("GET", f"{self.url}/v1/indexes", None, _parser(Indexes))

    def models(self) -> Request[ModelList]:
        """The list of models."""
        return Request("GET", f"{self.url}/openai/v1/models", None, _parser(ModelList))

    def document(self, document_id: str, collection: str | None, version: str | None) -> Request[StoredDocument]:
        """A stored document."""
        named = {"collection": collection, "version": version}
        query = urlencode({name: value for name, value in named.items() if value is not None})
        url = f"{self.url}/v1/documents/{quote(document_id)}{'?' if query else ''}{query}"
        return Request("GET", url, None, _parser(StoredDocument))


def http_options(
    url: str, token: str | None, headers: Mapping[str, str] | None, timeout_s: float, verify: bool
) -> dict[str, Any]:
    """Arguments of httpx's clients."""
    return {
        "headers": {**(headers or {}), **({"authorization": f"Bearer {token}"} if token else {})},
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, 10)),
        "verify": verify,
        # Services on this machine are not reached through a proxy.
        "trust_env": urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"),
    }


def _checked_url(url: str) -> str:
    try:
        urlsplit(url)
        given = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise RequestError(f"{url!r} is not a URL: {error}. Use one like {DEFAULT_URL}.") from error
    if given.scheme not in ("http", "https") or not given.host:
        raise RequestError(f"{url!r} is not an HTTP URL. Use one like {DEFAULT_URL}.")
    return url.rstrip("/")


# ── responses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Predictions(BaseModel):
    predictions: tuple[Prediction]


def _parser(model: type[ModelT]) -> Callable[[bytes], ModelT]:
    def parse(content: bytes) -> ModelT:
        try:
            return model.model_validate_json(content)
        except ValidationError as error:
            raise ServiceFailedError(f"The response of the service is not a valid {model.__name__}.") from error

    return parse


class EventReader:
    """Reads the events of a streamed answer from blocks of bytes."""

    def __init__(self) -> None:
        self._buffer = EventBuffer()
        self._complete = False

    def feed(self, block: bytes) -> Iterator[Event]:
        """The events that this block completes. Raises ClientError if an event is an error or invalid."""
        try:
            for data in event_data(self._buffer.feed(block)):
                event = _event(data)
                self._complete = isinstance(event, EndEvent)
                yield event
        except EventStreamError as error:
            raise ServiceFailedError(f"The service {error}.") from error

    def close(self) -> None:
        """Call it at the end of the stream. Raises InterruptedStreamError if the answer is incomplete."""
        if not self._complete:
            raise InterruptedStreamError("The stream ended before the answer was complete. Ask again.")


def _event(data: str) -> Event:
    try:
        content = json.loads(data)
        if isinstance(content, dict) and "error" in content:
            raise _service_error(content, status=None, headers={})
        # Chosen by a field that only this type has: an invalid end must not pass for a piece of text.
        kind = EndEvent if "finish_reason" in content else SourcesEvent if "sources" in content else TextEvent
        return kind.model_validate(content)
    except (TypeError, ValueError) as error:
        raise ServiceFailedError("The service sent an invalid event.") from error


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_ERRORS: dict[int, type[ClientError]] = {
    401: CredentialsError,
    403: CredentialsError,
    408: TimedOutError,
    429: UnavailableError,
    500: ServiceFailedError,
    502: UnavailableError,
    503: UnavailableError,
    504: TimedOutError,
}
"""Status → error. All others are `RequestError` below 500, `ServiceFailedError` from 500."""

STATUSES = {kind.code: kind.status for kind in ServiceError.__subclasses__()}
"""Code of an error → status, for errors in the middle of a stream, which carry no status."""


def status_error(response: httpx.Response) -> ClientError | None:
    """The error of a response, or None if its status is a success. The body must have been read."""
    if response.status_code < 300:
        return None
    try:
        content = response.json()
    except ValueError:
        content = {}
    body = content if isinstance(content, dict) else {}
    return _service_error(body, status=response.status_code, headers=response.headers)


def _service_error(content: Mapping[str, Any], *, status: int | None, headers: Mapping[str, str]) -> ClientError:
    """The error in a body `{"error", "code", "field"}`, or in any other body."""
    code = content.get("code")
    known = status if status is not None else STATUSES.get(str(code), 500)
    kind = _ERRORS.get(known, RequestError if known < 500 else ServiceFailedError)
    message, field, retry_after = content.get("error"), content.get("field"), headers.get("retry-after", "")
    fallback = f"The service responded with status {status}."
    if status is not None and status < 400 and "location" in headers:
        fallback = f"This URL redirects to {headers['location']}. Use that URL."
    return kind(
        message if isinstance(message, str) and message else fallback,
        status=status,
        code=code if isinstance(code, str) else None,
        field=field if isinstance(field, str) else None,
        request_id=headers.get("x-request-id"),
        retry_after_s=int(retry_after) if retry_after.isascii() and retry_after.isdigit() else None,
    )


def transport_error(error: httpx.HTTPError, url: str) -> ClientError:
    """The error of a request without a response."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return UnreachableError(f"Nothing can be reached at {url}. Is the graph up? (`kserve-rag status`)")
    if isinstance(error, httpx.TimeoutException):
        return TimedOutError(f"No response from {url} in time. Ask for fewer max_tokens, or raise timeout_s.")
    return InterruptedStreamError(f"The connection to {url} broke ({type(error).__name__}). Ask again.")
