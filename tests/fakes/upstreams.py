"""Stand-ins for the vectorstore, Triton and an OpenAI server: their wire formats, and behaviour that a test sets."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from typing import Any, Literal

from aiohttp import web

from predictor.servers.base import PARAMETERS
from tests.fakes.loopback import ThreadedServer

Behaviour = Literal[
    "answer", "fail", "garbage", "hang", "busy", "refuse", "break", "endless", "unauthorized", "unfinished"
]

PASSAGE: dict[str, Any] = {
    "text": "The warranty lasts three years.",
    "score": 0.03,
    "chunk_id": "c",
    "document_id": "d",
    "title": "Warranty",
    "url": None,
    "source": "warranty.md",
    "heading_path": [],
    "span": {"start": 0, "end": 31},
    "metadata": {},
    "index_version": "v1",
    "similarity": 0.7,
    "lexical_score": 3.0,
    "support": 1.1,
}
Q = "How long is the warranty?"
EMBEDDER = "minilm@sha256:0"
WORDS = ("The", " warranty", " lasts", " three", " years.")


class Upstreams(ThreadedServer):
    """One server for all, on loopback."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        """Service, headers and body of each request for passages or text."""
        self.browsed: list[tuple[str, dict[str, str]]] = []
        """Path and headers of each request for indexes or documents."""
        self.left = threading.Event()
        """Set when a client disconnects during an answer."""
        self.reset()

    def reset(self) -> None:
        """Forgets the requests and behaves well from now on."""
        self.vectorstore: Behaviour = "answer"
        self.predictor: Behaviour = "answer"
        self.words: tuple[str, ...] = WORDS
        """The predictor's answer."""
        self.documents: dict[str, str] = {"d": PASSAGE["text"]}
        """Texts of stored documents."""
        self.documents_answer: Behaviour = "answer"
        self.indexes_answer: Behaviour = "answer"
        self.version = PASSAGE["index_version"]
        self.published = True
        self.reason: str | None = None
        """Why the default index is not ready."""
        self.calibration: dict[str, Any] | None = None
        """Calibration that predictions report."""
        self.seen.clear()
        self.browsed.clear()
        self.left.clear()

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/models/vectorstore:predict", self._search)
        app.router.add_get("/v1/documents/{id}", self._document)
        app.router.add_get("/v1/indexes", self._indexes)
        app.router.add_post("/v2/models/tensorrt_llm/generate_stream", self._generate)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v2/models/vectorstore/ready", self._ready)
        app.router.add_get("/v2/models/tensorrt_llm", self._describe)
        return app

    async def _search(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(("vectorstore", dict(request.headers), body))
        if self.vectorstore != "answer":
            return await self._misbehave(self.vectorstore, request)
        passages = [{**PASSAGE, "index_version": self.version}]
        prediction = {
            "passages": passages,
            "index_version": self.version,
            "timings_ms": {"embed": 5.0, "search": 1.0},
            "calibration": self.calibration,
        }
        return web.json_response({"predictions": [prediction] * len(body["instances"])})

    async def _indexes(self, request: web.Request) -> web.StreamResponse:
        self.browsed.append((request.path_qs, dict(request.headers)))
        if self.indexes_answer != "answer":
            return await self._misbehave(self.indexes_answer, request)
        index = {
            "name": "default",
            "version": self.version,
            "documents": 1,
            "chunks": 1,
            "embedder": EMBEDDER,
            "parts": ["dense", "lexical"],
            "calibration": None,
            "examples": [Q],
        }
        status: dict[str, Any] = {"index": index if self.published else None, "reason": self.reason}
        other = {"index": {**index, "name": "other", "examples": []}, "reason": "Another embedder."}
        return web.json_response({"default": "default", **status, "collections": {"default": status, "other": other}})

    async def _document(self, request: web.Request) -> web.StreamResponse:
        if self.documents_answer != "answer":
            return await self._misbehave(self.documents_answer, request)
        self.browsed.append((request.path_qs, dict(request.headers)))
        document_id, version = request.match_info["id"], request.query.get("version", self.version)
        for field, known in (("version", version == self.version), ("document_id", document_id in self.documents)):
            if not known:
                told = {"error": "There is none.", "code": "not_found", "field": field}
                return web.json_response(told, status=404)
        return web.json_response(
            {
                "id": document_id,
                "title": "Warranty",
                "url": None,
                "text": self.documents[document_id],
                "source": "warranty.md",
                "metadata": {},
                "collection": request.query.get("collection", "default"),
                "index_version": version,
            }
        )

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(("predictor", dict(request.headers), await request.json()))
        if self.predictor not in ("answer", "break", "endless", "unfinished"):
            return await self._misbehave(self.predictor, request)
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        text = ""
        try:
            for number in itertools.count():
                for word in self.words:
                    text += word if number == 0 else f"{word} {number}"  # endless, and no repetition
                    await self._send(response, {"text_output": text})
                    await asyncio.sleep(0.02)
                if self.predictor == "break":
                    await self._send(response, {"error": "Error generating request: CUDA error at 0xdeadbeef"})
                    return response
                if self.predictor == "unfinished":
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if self.predictor == "answer":
                    break
        except (ConnectionError, asyncio.CancelledError):
            self.left.set()
            raise
        end = {
            "text_output": text,
            "finish_reason": "stop",
            "num_input_tokens": 50,
            "num_output_tokens": len(self.words),
        }
        await self._send(response, end)
        return response

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(("predictor", dict(request.headers), await request.json()))
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in self.words)]
        for delta in deltas:
            await self._send(response, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        await self._send(response, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 50, "completion_tokens": len(self.words)}
        usage["prompt_tokens_details"] = {"cached_tokens": 32}
        await self._send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _models(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": "gpt", "object": "model"}]})

    async def _misbehave(self, behaviour: Behaviour, request: web.Request) -> web.StreamResponse:
        if behaviour == "hang":
            try:
                await asyncio.sleep(600)
            finally:
                self.left.set()
        if behaviour == "unfinished" and request.transport is not None:
            request.transport.abort()
        if behaviour == "garbage":
            return web.Response(text="<html>proxy error</html>", content_type="text/html")
        status, error = {
            "fail": (500, "KeyError: internals of theirs"),
            "busy": (503, "the queue is full"),
            "unauthorized": (401, "token expired"),
        }[behaviour]
        return web.json_response({"error": error}, status=status)

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"name": "vectorstore", "ready": True})

    async def _describe(self, _: web.Request) -> web.StreamResponse:
        names = ["text_input", *(f"sampling_param_{name}" for name in PARAMETERS)]
        inputs = [{"name": name, "datatype": "FP32", "shape": [1]} for name in names]
        return web.json_response({"name": "tensorrt_llm", "inputs": inputs, "outputs": []})

    @staticmethod
    async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
