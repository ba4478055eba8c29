"""A minimal async KServe handler that forwards requests to other servers, for the minimum cost of a hop.

python -m benchmarks.bare_hop NAME PORT {httpx|aiohttp} URL [URL]
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import aiohttp
import httpx
import kserve


class Hop(kserve.Model):  # type: ignore[misc]
    """Posts the payload to each URL in turn."""

    def __init__(self, name: str, library: str, urls: list[str]) -> None:
        super().__init__(name)
        self.ready = True
        self._urls = urls
        self._post = {"httpx": self._with_httpx, "aiohttp": self._with_aiohttp}[library]
        self._client: Any = None

    async def predict(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        for url in self._urls:
            await self._post(url, payload)
        return {"predictions": ["done"]}

    async def _with_httpx(self, url: str, payload: Any) -> None:
        self._client = self._client or httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=512))
        (await self._client.post(url, json=payload)).raise_for_status()

    async def _with_aiohttp(self, url: str, payload: Any) -> None:
        self._client = self._client or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=512))
        async with self._client.post(url, json=payload) as response:
            response.raise_for_status()
            await response.read()


class LoopbackServer(kserve.ModelServer):  # type: ignore[misc]
    """KServe's server, on loopback only."""

    async def _serve(self) -> None:
        self._rest_server.config.host = "127.0.0.1"
        await super()._serve()


if __name__ == "__main__":
    _, name, port, library, *urls = sys.argv
    logging.disable(logging.INFO)
    LoopbackServer(http_port=int(port), enable_grpc=False, workers=1).start([Hop(name, library, urls)])
