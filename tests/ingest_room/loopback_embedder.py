"""An embedder for tests of ingestion: Triton's v2 protocol with binary tensors, over vectors made of hashed texts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import threading
from collections import Counter
from typing import Any

import numpy as np
from aiohttp import web

DIMENSION = 16
FINGERPRINT = "hash@sha256:" + "1" * 64
OTHER_FINGERPRINT = "other@sha256:" + "2" * 64
MODEL = "minilm"

_SIZE_HEADER = "Inference-Header-Content-Length"


def vector(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32[16], L2-normalised: the same for the same text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    values = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    return values / np.linalg.norm(values)


class LoopbackEmbedder:
    """Serves on loopback from a thread of its own. Its attributes may be changed at any time by the test."""

    def __init__(self) -> None:
        self.fingerprint = FINGERPRINT
        self.faults: list[int] = []
        """HTTP statuses that the next requests with texts in them are answered with, one each."""
        self.fails_after: int | None = None
        """Texts after which every request is answered with status 503."""
        self.exchanged_after: int | None = None
        """Texts after which another model answers."""
        self.waits_for = 0
        """Requests are held back until so many are under way at once."""
        self.texts: Counter[str] = Counter()
        """How often each text was embedded."""
        self.remembers = True
        """Whether `texts` is kept."""
        self.embedded = 0
        """Texts embedded so far."""
        self.input_types: set[str] = set()
        self.most_at_once = 0
        self._at_once = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._arrived = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> LoopbackEmbedder:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_get(f"/v2/models/{MODEL}", self._metadata)
        app.router.add_post(f"/v2/models/{MODEL}/infer", self._infer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _metadata(self, _: web.Request) -> web.Response:
        return web.json_response({"name": MODEL, "versions": ["1"], "platform": "python"})

    async def _infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        head_size = int(request.headers[_SIZE_HEADER])
        head = json.loads(body[:head_size])
        tensors = _tensors(head, body[head_size:])
        texts = tensors["text_input"]
        # The client asks who the embedder is with one empty text.
        if texts != [""]:
            self.input_types.update(tensors["input_type"])
            if self.faults:
                return web.json_response({"error": "no"}, status=self.faults.pop(0))
            if self.fails_after is not None and self.embedded >= self.fails_after:
                return web.json_response({"error": "model is not ready"}, status=503)
            self.embedded += len(texts)
            if self.remembers:
                self.texts.update(texts)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self._arrived.set()
            self._arrived.clear()
            while self.most_at_once < self.waits_for:
                await asyncio.wait_for(self._arrived.wait(), 30)
            self._at_once -= 1
        return self._answer(texts, [output["name"] for output in head["outputs"]])

    def _answer(self, texts: list[str], names: list[str]) -> web.Response:
        rows = len(texts)
        exchanged = self.exchanged_after is not None and self.embedded >= self.exchanged_after
        fingerprint = (OTHER_FINGERPRINT if exchanged else self.fingerprint).encode()
        data: dict[str, tuple[str, int, bytes]] = {
            "embeddings": ("FP32", DIMENSION, b"".join(vector(text).tobytes() for text in texts)),
            "token_count": ("INT32", 1, struct.pack(f"<{rows}i", *(len(text.split()) + 2 for text in texts))),
            "truncated": ("BOOL", 1, bytes(rows)),
            "fingerprint": ("BYTES", 1, (struct.pack("<I", len(fingerprint)) + fingerprint) * rows),
        }
        outputs = [
            {
                "name": name,
                "datatype": data[name][0],
                "shape": [rows, data[name][1]],
                "parameters": {"binary_data_size": len(data[name][2])},
            }
            for name in names
        ]
        head = json.dumps({"model_name": MODEL, "model_version": "1", "outputs": outputs}).encode()
        return web.Response(
            body=head + b"".join(data[name][2] for name in names),
            content_type="application/octet-stream",
            headers={_SIZE_HEADER: str(len(head))},
        )


def _tensors(head: dict[str, Any], data: bytes) -> dict[str, list[str]]:
    """BYTES inputs by name."""
    tensors: dict[str, list[str]] = {}
    start = 0
    for tensor in head["inputs"]:
        end = start + tensor["parameters"]["binary_data_size"]
        values = []
        while start < end:
            (length,) = struct.unpack_from("<I", data, start)
            values.append(data[start + 4 : start + 4 + length].decode())
            start += 4 + length
        assert len(values) == tensor["shape"][0]
        tensors[tensor["name"]] = values
    return tensors
