"""The transformer as a program between upstreams that a test controls."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from kserve_rag.models.store import ModelStore
from kserve_rag.settings import Settings
from tests.fakes.upstreams import Upstreams
from tests.processes import free_ports, program

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


@dataclass
class Running:
    upstreams: Upstreams
    client: httpx.AsyncClient
    grpc: str
    """host:port"""


@contextlib.contextmanager
def serving(room: str, **settings: str) -> Iterator[str]:
    """A room's program on a free port. Yields its base URL."""
    (port,) = free_ports(1)
    settings = {"HOST": "127.0.0.1", "HTTP_PORT": str(port), "ENABLE_GRPC": "false", **settings}
    environ = {**os.environ, **{f"{room.upper()}_{name}": value for name, value in settings.items()}}
    url = f"http://127.0.0.1:{port}"
    with program([sys.executable, "-m", room], f"{url}/v2/health/live", environ):
        yield url


def transformer(vectorstore: str, predictor: str, **more: str) -> contextlib.AbstractContextManager[str]:
    tokenizer = ModelStore(Settings().models).materialise("smollm2-135m", "llm").path
    settings = {"VECTORSTORE_URL": vectorstore, "PREDICTOR_URL": predictor, "PROMPT_FORMAT": str(tokenizer)}
    return serving("transformer", **{**settings, "TIMEOUT_S": "120", **more})


@contextlib.asynccontextmanager
async def between(upstreams: Upstreams, **settings: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a transformer with these settings."""
    with transformer(upstreams.url, upstreams.url, **settings) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield client


def message(response: httpx.Response) -> str:
    error = response.json()["error"]
    return str(error["message"] if isinstance(error, dict) else error)


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
