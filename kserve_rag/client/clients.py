"""`Client` and `AsyncClient`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

import httpx

from kserve_rag.client.protocol import (
    DEFAULT_URL,
    Endpoints,
    Event,
    EventReader,
    Parameters,
    Request,
    SearchOptions,
    http_options,
    status_error,
    transport_error,
)
from transformer.wire import Answer, Indexes, ModelCard
from vectorstore.wire import Passage, Prediction, StoredDocument

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

T = TypeVar("T")
HttpT = TypeVar("HttpT", httpx.Client, httpx.AsyncClient)

_EVENTS = {"accept": "text/event-stream"}


class _Connection(Generic[HttpT]):
    _http_class: type[HttpT]

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
        """Create a client; this does no I/O.

        Args:
            url: base URL of the transformer.
            vectorstore_url: base URL of the vectorstore, for `search` and `retrieve`.
            model: the transformer's model name. `ask` and `stream` have a parameter for another model that answers.
            token: sent as `Authorization: Bearer …` to the transformer.
            headers: sent with every request.
            timeout_s: maximum wait for a response, or between two pieces of a stream.
            verify: whether to verify TLS certificates.
        """
        self._endpoints = Endpoints(url, vectorstore_url, model)
        self._http: HttpT = self._http_class(**http_options(url, token, headers, timeout_s, verify))


class Client(_Connection[httpx.Client]):
    """A client of a running graph, local or in a cluster. Pools connections; safe to use from several threads.

    Every method raises a subclass of `kserve_rag.ClientError`.
    """

    _http_class = httpx.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, question: str, **parameters: Unpack[Parameters]) -> Answer:
        """The whole answer with its sources."""
        return self._send(self._endpoints.ask(question, parameters))

    def stream(self, question: str, **parameters: Unpack[Parameters]) -> Iterator[Event]:
        """The answer as it is generated: a `SourcesEvent`, `TextEvent`s, and an `EndEvent`.

        Closing the iterator, or leaving the loop over it, cancels the generation.
        """
        body = self._endpoints.generate_body(question, parameters)
        try:
            with self._http.stream("POST", self._endpoints.stream_url, json=body, headers=_EVENTS) as response:
                if response.status_code >= 300:
                    response.read()
                if (failure := status_error(response)) is not None:
                    raise failure
                reader = EventReader()
                for block in response.iter_bytes():
                    yield from reader.feed(block)
                reader.close()
        except httpx.HTTPError as error:
            raise transport_error(error, self._endpoints.url) from error

    def search(self, query: str, **options: Unpack[SearchOptions]) -> list[Passage]:
        """The passages for a query, best first. Needs `vectorstore_url`."""
        return self.retrieve(query, **options).passages

    def retrieve(self, query: str, **options: Unpack[SearchOptions]) -> Prediction:
        """Like `search`, with the index versions, the timings and, with `explain`, what was cut."""
        return self._send(self._endpoints.search(query, options))

    def indexes(self) -> Indexes:
        """The indexes that can be searched, each with example questions."""
        return self._send(self._endpoints.indexes())

    def models(self) -> list[ModelCard]:
        """The models that answer, with their defaults. The first is the service's own."""
        return self._send(self._endpoints.models()).data

    def document(
        self, document_id: str, *, collection: str | None = None, version: str | None = None
    ) -> StoredDocument:
        """A stored document, of the serving index version or of another published one."""
        return self._send(self._endpoints.document(document_id, collection, version))

    def ready(self) -> bool:
        """Whether the transformer and everything that it needs are ready. False if it cannot be reached."""
        try:
            return self._http.get(self._endpoints.ready_url).status_code == 200
        except httpx.HTTPError:
            return False

    def _send(self, request: Request[T]) -> T:
        try:
            response = self._http.request(request.method, request.url, json=request.body)
        except httpx.HTTPError as error:
            raise transport_error(error, request.url) from error
        return request.read(response)


class AsyncClient(_Connection[httpx.AsyncClient]):
    """`Client` for asyncio: the same methods as coroutines, and `stream` as an asynchronous generator."""

    _http_class = httpx.AsyncClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, question: str, **parameters: Unpack[Parameters]) -> Answer:
        """Like `Client.ask`."""
        return await self._send(self._endpoints.ask(question, parameters))

    async def stream(self, question: str, **parameters: Unpack[Parameters]) -> AsyncGenerator[Event, None]:
        """Like `Client.stream`. Close the generator (`contextlib.aclosing`) to cancel the generation at once."""
        body = self._endpoints.generate_body(question, parameters)
        try:
            async with self._http.stream("POST", self._endpoints.stream_url, json=body, headers=_EVENTS) as response:
                if response.status_code >= 300:
                    await response.aread()
                if (failure := status_error(response)) is not None:
                    raise failure
                reader = EventReader()
                async for block in response.aiter_bytes():
                    for event in reader.feed(block):
                        yield event
                reader.close()
        except httpx.HTTPError as error:
            raise transport_error(error, self._endpoints.url) from error

    async def search(self, query: str, **options: Unpack[SearchOptions]) -> list[Passage]:
        """Like `Client.search`."""
        return (await self.retrieve(query, **options)).passages

    async def retrieve(self, query: str, **options: Unpack[SearchOptions]) -> Prediction:
        """Like `Client.retrieve`."""
        return await self._send(self._endpoints.search(query, options))

    async def indexes(self) -> Indexes:
        """Like `Client.indexes`."""
        return await self._send(self._endpoints.indexes())

    async def models(self) -> list[ModelCard]:
        """Like `Client.models`."""
        return (await self._send(self._endpoints.models())).data

    async def document(
        self, document_id: str, *, collection: str | None = None, version: str | None = None
    ) -> StoredDocument:
        """Like `Client.document`."""
        return await self._send(self._endpoints.document(document_id, collection, version))

    async def ready(self) -> bool:
        """Like `Client.ready`."""
        try:
            return (await self._http.get(self._endpoints.ready_url)).status_code == 200
        except httpx.HTTPError:
            return False

    async def _send(self, request: Request[T]) -> T:
        try:
            response = await self._http.request(request.method, request.url, json=request.body)
        except httpx.HTTPError as error:
            raise transport_error(error, request.url) from error
        return request.read(response)
