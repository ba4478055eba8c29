"""Asking a running graph from Python, here or in a cluster.

    from kserve_rag import Client

    with Client("http://127.0.0.1:8080") as client:
        answer = client.ask("How do I roll back to the version before?")
        print(answer.text_output)
        for source in answer.sources:
            print(source.number, source.title, source.url, source.span)
        for statement in answer.citations.statements if answer.citations else []:
            print(statement.verdict, [quote.text for quote in statement.quotes])

`AsyncClient` has the same methods as coroutines. Both speak the transformer's `generate` and `generate_stream`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar
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
from transformer.wire import Answer, CitationMode, EndEvent, Indexes, Message, SourcesEvent, TextEvent
from vectorstore.wire import Mode, Passage, Prediction, StoredDocument

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_URL = "http://127.0.0.1:8080"
"""Where `kserve-rag up` puts the transformer."""

Event = SourcesEvent | TextEvent | EndEvent
"""What a stream yields: sources first, then pieces of text, then the end with usage and final sources."""

ModelT = TypeVar("ModelT", bound=BaseModel)


class Parameters(TypedDict, total=False):
    """How a question is answered. What is absent or None is not sent: the service's own default holds.

    Zeros are sent, and mean zero. `transformer.wire.GenerateRequest` has the limits.
    """

    history: Sequence[Message | Mapping[str, str]]
    """Earlier turns, oldest first: {"role": "user" or "assistant", "content": text}."""
    num_docs: int | None
    """Passages to answer from."""
    filters: Mapping[str, Any] | None
    """Conditions on the documents' metadata, in Chroma's `where` language."""
    context: str | None
    """Used in place of retrieved passages."""
    retrieval: bool
    """False: answer without documents."""
    collections: Sequence[str] | None
    """Indexes that are searched."""
    neighbours: int | None
    """Chunks before and after that are joined to each passage."""
    diversity: float | None
    """How much a passage is held against for saying what a better one says, 0 … 1."""
    refuse: bool | None
    """Whether a question is refused that the passages seem not to answer."""
    min_score: float | None
    """Answerability below which it is refused, 0 … 1."""
    citations: CitationMode | None
    """How the answer is checked against its sources: "off", "label" or "quote"."""
    max_tokens: int | None
    """Most tokens of the answer. 0: find the passages and write nothing."""
    temperature: float | None
    top_k: int | None
    top_p: float | None
    stop: Sequence[str]
    seed: int | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None


class SearchOptions(TypedDict, total=False):
    """How passages are searched for. What is absent or None is not sent: the service's own default holds.

    `vectorstore.wire.SearchInstance` has the limits.
    """

    num_docs: int | None
    """Passages wanted."""
    filters: Mapping[str, Any] | None
    """Conditions on the documents' metadata, in Chroma's `where` language."""
    mode: Mode | None
    """Signals used: "dense", "lexical", "fused" or "rescored"."""
    min_score: float | None
    """Passages of a lower score are left out."""
    diversity: float | None
    """How much passages are held against for saying what a better one says, 0 … 1."""
    neighbours: int | None
    """Chunks before and after that are joined to each passage."""
    collections: Sequence[str] | None
    """Indexes that are searched."""
    explain: bool | None
    """Also tell why each passage is there, and what was cut."""


@dataclass(frozen=True, slots=True)
class _Endpoints:
    """Requests as the services want them, and answers as this package gives them. Shared by both clients."""

    url: str
    vectorstore_url: str | None
    model: str

    def generate(self, *, stream: bool) -> str:
        return f"{self.url}/v2/models/{quote(self.model, safe='')}/generate{'_stream' if stream else ''}"

    def indexes(self) -> str:
        return f"{self.url}/v1/indexes"

    def document(self, document_id: str, collection: str | None, version: str | None) -> str:
        named = {"collection": collection, "version": version}
        query = urlencode({name: value for name, value in named.items() if value is not None})
        return f"{self.url}/v1/documents/{quote(document_id)}{'?' if query else ''}{query}"

    def search(self) -> str:
        if self.vectorstore_url is None:
            raise RequestError(
                "This client does not know the vectorstore: give it vectorstore_url "
                "(`kserve-rag status` shows it on one machine)."
            )
        return f"{self.vectorstore_url}/v1/models/vectorstore:predict"


class Client:
    """Asks a running graph. One pool of connections; safe for use from several threads.

    Every method raises the subclass of `kserve_rag.errors.ClientError` that says what went wrong.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        vectorstore_url: str | None = None,
        model: str = "rag",
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 120,
        verify: bool = True,
    ) -> None:
        """A client of the transformer at `url`.

        Args:
            url: base URL of the transformer.
            vectorstore_url: base URL of the vectorstore, for `search` and `retrieve`.
            model: the transformer's model name.
            token: sent as `Authorization: Bearer …`, to the transformer and by it to the other services.
            headers: sent with every request.
            timeout_s: longest wait for an answer, or between two pieces of a streamed one.
            verify: whether to check TLS certificates.

        """
        self._endpoints = _Endpoints(_base(url), vectorstore_url and _base(vectorstore_url), model)
        self._http = httpx.Client(**_transport(url, token, headers, timeout_s, verify))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def ask(self, question: str, **parameters: Unpack[Parameters]) -> Answer:
        """The whole answer with its sources."""
        body = _body(question, parameters)
        return _parsed(Answer, self._request("POST", self._endpoints.generate(stream=False), body))

    def stream(self, question: str, **parameters: Unpack[Parameters]) -> Iterator[Event]:
        """The answer as it is made: a `SourcesEvent`, `TextEvent`s, and an `EndEvent`.

        Closing the iterator, or leaving the loop over it, cancels the generation.
        """
        body = _body(question, parameters)
        url = self._endpoints.generate(stream=True)
        try:
            with self._http.stream("POST", url, json=body, headers={"accept": "text/event-stream"}) as response:
                if response.status_code >= 300:
                    response.read()
                    raise _rejection(response)
                ended, buffer = False, EventBuffer()
                for received in response.iter_bytes():
                    for event in _events(buffer, received):
                        ended = isinstance(event, EndEvent)
                        yield event
                if not ended:
                    raise InterruptedStreamError("The answer broke off before its end. Ask again.")
        except httpx.HTTPError as error:
            raise _transport_error(error, self._endpoints.url) from error

    def search(self, query: str, **options: Unpack[SearchOptions]) -> list[Passage]:
        """The passages that answer a query, best first. Needs `vectorstore_url`."""
        return self.retrieve(query, **options).passages

    def retrieve(self, query: str, **options: Unpack[SearchOptions]) -> Prediction:
        """As `search`, with the index versions, the times, and where `explain` is set what was cut."""
        return _prediction(self._request("POST", self._endpoints.search(), _search_body(query, options)))

    def indexes(self) -> Indexes:
        """What can be asked: the indexes that are served, each with questions that its documents answer."""
        return _parsed(Indexes, self._request("GET", self._endpoints.indexes()))

    def document(
        self, document_id: str, *, collection: str | None = None, version: str | None = None
    ) -> StoredDocument:
        """A stored document, of the version that is served or of one that is still published."""
        return _parsed(StoredDocument, self._request("GET", self._endpoints.document(document_id, collection, version)))

    def ready(self) -> bool:
        """Whether the transformer and all that it needs can answer now; False also where it cannot be reached."""
        try:
            url = f"{self._endpoints.url}/v2/models/{quote(self._endpoints.model, safe='')}/ready"
            return self._http.get(url).status_code == 200
        except httpx.HTTPError:
            return False

    def _request(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> bytes:
        try:
            response = self._http.request(method, url, json=body)
        except httpx.HTTPError as error:
            raise _transport_error(error, url) from error
        if response.status_code >= 300:
            raise _rejection(response)
        return response.content


class AsyncClient:
    """`Client` for asyncio: the same methods as coroutines, `stream` as an asynchronous iterator."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        vectorstore_url: str | None = None,
        model: str = "rag",
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 120,
        verify: bool = True,
    ) -> None:
        """As `Client`."""
        self._endpoints = _Endpoints(_base(url), vectorstore_url and _base(vectorstore_url), model)
        self._http = httpx.AsyncClient(**_transport(url, token, headers, timeout_s, verify))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def ask(self, question: str, **parameters: Unpack[Parameters]) -> Answer:
        """As `Client.ask`."""
        body = _body(question, parameters)
        return _parsed(Answer, await self._request("POST", self._endpoints.generate(stream=False), body))

    async def stream(self, question: str, **parameters: Unpack[Parameters]) -> AsyncGenerator[Event, None]:
        """As `Client.stream`. Close the iterator (`contextlib.aclosing`) to cancel the generation at once."""
        body = _body(question, parameters)
        url = self._endpoints.generate(stream=True)
        try:
            async with self._http.stream("POST", url, json=body, headers={"accept": "text/event-stream"}) as response:
                if response.status_code >= 300:
                    await response.aread()
                    raise _rejection(response)
                ended, buffer = False, EventBuffer()
                async for received in response.aiter_bytes():
                    for event in _events(buffer, received):
                        ended = isinstance(event, EndEvent)
                        yield event
                if not ended:
                    raise InterruptedStreamError("The answer broke off before its end. Ask again.")
        except httpx.HTTPError as error:
            raise _transport_error(error, self._endpoints.url) from error

    async def search(self, query: str, **options: Unpack[SearchOptions]) -> list[Passage]:
        """As `Client.search`."""
        return (await self.retrieve(query, **options)).passages

    async def retrieve(self, query: str, **options: Unpack[SearchOptions]) -> Prediction:
        """As `Client.retrieve`."""
        return _prediction(await self._request("POST", self._endpoints.search(), _search_body(query, options)))

    async def indexes(self) -> Indexes:
        """As `Client.indexes`."""
        return _parsed(Indexes, await self._request("GET", self._endpoints.indexes()))

    async def document(
        self, document_id: str, *, collection: str | None = None, version: str | None = None
    ) -> StoredDocument:
        """As `Client.document`."""
        url = self._endpoints.document(document_id, collection, version)
        return _parsed(StoredDocument, await self._request("GET", url))

    async def ready(self) -> bool:
        """As `Client.ready`."""
        try:
            url = f"{self._endpoints.url}/v2/models/{quote(self._endpoints.model, safe='')}/ready"
            return (await self._http.get(url)).status_code == 200
        except httpx.HTTPError:
            return False

    async def _request(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> bytes:
        try:
            response = await self._http.request(method, url, json=body)
        except httpx.HTTPError as error:
            raise _transport_error(error, url) from error
        if response.status_code >= 300:
            raise _rejection(response)
        return response.content


def _base(url: str) -> str:
    """A URL that paths are appended to."""
    try:
        urlsplit(url)
        given = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise RequestError(f"{url!r} is no URL: {error}. Give one as {DEFAULT_URL}.") from error
    if given.scheme not in ("http", "https") or not given.host:
        raise RequestError(f"{url!r} is no URL of http or https. Give one as {DEFAULT_URL}.")
    return url.rstrip("/")


def _transport(
    url: str, token: str | None, headers: Mapping[str, str] | None, timeout_s: float, verify: bool
) -> dict[str, Any]:
    """Arguments of httpx's clients."""
    return {
        "headers": {**(headers or {}), **({"authorization": f"Bearer {token}"} if token else {})},
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, 10)),
        "verify": verify,
        # A proxy of the environment is not asked for what runs on this machine.
        "trust_env": urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"),
    }


def _body(question: str, parameters: Parameters) -> dict[str, Any]:
    """The body of `generate`."""
    given = {name: value for name, value in parameters.items() if value is not None}
    history = parameters.get("history")
    if history is not None:
        given["history"] = [turn.model_dump() if isinstance(turn, Message) else dict(turn) for turn in history]
    return {"text_input": question, **given}


def _search_body(query: str, options: SearchOptions) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None}
    return {"instances": [{"input": query, **given}]}


class _Predictions(BaseModel):
    predictions: tuple[Prediction]


def _prediction(content: bytes) -> Prediction:
    return _parsed(_Predictions, content).predictions[0]


def _parsed(kind: type[ModelT], content: bytes) -> ModelT:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise ServiceFailedError(f"The service answered something that is no {kind.__name__}.") from error


def _events(buffer: EventBuffer, block: bytes) -> Iterator[Event]:
    """The events that are complete with this block of the stream."""
    try:
        return map(_event, event_data(buffer.feed(block)))
    except EventStreamError as error:
        raise ServiceFailedError(f"The service {error}.") from error


def _event(data: str) -> Event:
    try:
        content = json.loads(data)
        if isinstance(content, dict) and "error" in content:
            raise _told(content, status=None, headers={})
        return _kind(content).model_validate(content)
    except (TypeError, ValueError, ValidationError) as error:
        raise ServiceFailedError("The service sent an event that is none of its protocol's.") from error


def _kind(content: Any) -> type[Event]:
    """By what only that kind has: an end that cannot be read must not pass for a piece of text."""
    if "finish_reason" in content:
        return EndEvent
    return SourcesEvent if "sources" in content else TextEvent


_BY_STATUS: dict[int, type[ClientError]] = {
    401: CredentialsError,
    403: CredentialsError,
    408: TimedOutError,
    429: UnavailableError,
    500: ServiceFailedError,
    502: UnavailableError,
    503: UnavailableError,
    504: TimedOutError,
}
"""Statuses of 400 and more that are not here are the request's fault below 500, and the service's from there on."""

_BY_CODE = {kind.code: kind.status for kind in ServiceError.__subclasses__()}
"""Kinds of `chassis.errors`, for errors in the midst of a stream, which have no status of their own."""


def _rejection(response: httpx.Response) -> ClientError:
    try:
        content = response.json()
    except ValueError:
        content = {}
    return _told(content if isinstance(content, dict) else {}, status=response.status_code, headers=response.headers)


def _told(content: Mapping[str, Any], *, status: int | None, headers: Mapping[str, str]) -> ClientError:
    """The error in a body of the services' own shape `{"error", "code", "field"}`, or in none."""
    code = content.get("code")
    status_of_kind = status if status is not None else _BY_CODE.get(str(code), 500)
    kind = _BY_STATUS.get(status_of_kind, RequestError if status_of_kind < 500 else ServiceFailedError)
    message, field, retry_after = content.get("error"), content.get("field"), headers.get("retry-after", "")
    unsaid = f"The service answered with status {status}."
    if status is not None and status < 400 and "location" in headers:
        unsaid = f"There is no service, but one that sends its callers to {headers['location']}. Ask that one."
    return kind(
        message if isinstance(message, str) and message else unsaid,
        status=status,
        code=code if isinstance(code, str) else None,
        field=field if isinstance(field, str) else None,
        request_id=headers.get("x-request-id"),
        retry_after_s=int(retry_after) if retry_after.isascii() and retry_after.isdigit() else None,
    )


def _transport_error(error: httpx.HTTPError, url: str) -> ClientError:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return UnreachableError(f"Nothing can be reached at {url}. Is the graph up? (`kserve-rag status`)")
    if isinstance(error, httpx.TimeoutException):
        return TimedOutError(f"No answer from {url} in time. Ask for fewer max_tokens, or raise timeout_s.")
    return InterruptedStreamError(f"The connection to {url} broke ({type(error).__name__}). Ask again.")
