"""`AsyncClient`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

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
from transformer.wire import Answer, Indexes
from vectorstore.wire import Passage, Prediction, StoredDocument

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same methods as coroutines, and `stream` as an asynchronous generator."""

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
        """Like `Client`."""
        self._endpoints = Endpoints(url, vectorstore_url, model)
        self._http = httpx.AsyncClient(**http_options(url, token, headers, timeout_s, verify))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        headers = {"accept": "text/event-stream"}
        try:
            async with self._http.stream("POST", self._endpoints.stream_url, json=body, headers=headers) as response:
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
        if (failure := status_error(response)) is not None:
            raise failure
        return request.parse(response.content)
