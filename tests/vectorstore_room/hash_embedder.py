"""An embedder for tests: Triton's v2 protocol with binary tensors, byte for byte, over vectors made of hashed words."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import struct
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

DIMENSION = 64
FINGERPRINT = "hash@sha256:" + "1" * 64
OTHER_FINGERPRINT = "other@sha256:" + "2" * 64
MODEL = "minilm"
MAX_TOKENS = 256

_SIZE_HEADER = "Inference-Header-Content-Length"


def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """float32[n, 64], rows L2-normalised; texts that share words are near each other."""
    vectors = np.empty((len(texts), DIMENSION), np.float32)
    for row, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower()) or [""]
        total = np.zeros(DIMENSION)
        for word in words:
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
            total += np.random.default_rng(seed).standard_normal(DIMENSION)
        vectors[row] = total / np.linalg.norm(total)
    return vectors


class HashEmbedder:
    """Serves on loopback from a thread of its own. Its attributes may be changed at any time by the test."""

    def __init__(self) -> None:
        self.fingerprint = FINGERPRINT
        self.fault: str | None = None
        self.calls: list[list[str]] = []
        self.headers: list[dict[str, str]] = []
        self.port = 0
        self.held = threading.Event()
        self._hold: asyncio.Event | None = None
        self._waiting: asyncio.Event | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HashEmbedder:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def hold(self) -> None:
        """Requests from now on wait; `held` is set when the first one does."""
        self._hold = asyncio.Event()

    def pass_new(self) -> None:
        """Requests from now on no longer wait; those that do go on waiting."""
        self._waiting, self._hold = self._hold, None

    def release(self) -> None:
        """Lets those go that wait."""
        assert self._waiting is not None
        self._loop.call_soon_threadsafe(self._waiting.set)

    async def _serve(self) -> None:
        app = web.Application()
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
        texts = self._texts(head, body[head_size:])
        self.calls.append(texts)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self._hold is not None:
            self.held.set()
            await self._hold.wait()
        match self.fault:
            case "failure":
                return web.json_response({"error": "Traceback: secret internals"}, status=500)
            case "unavailable":
                return web.json_response({"error": "model is not ready"}, status=503)
            case "garbage":
                return web.Response(body=b"\x00nonsense")
            case "slow":
                await asyncio.sleep(30)
            case "rows":
                texts = texts[:-1]
        return self._answer(texts, [output["name"] for output in head["outputs"]])

    @staticmethod
    def _texts(head: dict[str, Any], data: bytes) -> list[str]:
        start = 0
        for tensor in head["inputs"]:
            size = tensor["parameters"]["binary_data_size"]
            if tensor["name"] == "text_input":
                texts, position = [], start
                while position < start + size:
                    (length,) = struct.unpack_from("<I", data, position)
                    texts.append(data[position + 4 : position + 4 + length].decode())
                    position += 4 + length
                assert len(texts) == tensor["shape"][0]
                return texts
            start += size
        raise AssertionError("text_input is missing")

    def _answer(self, texts: list[str], names: list[str]) -> web.Response:
        vectors = embed(texts)
        if self.fault == "nan":
            vectors[0, 0] = np.nan
        if self.fault == "dimension":
            vectors = vectors[:, : DIMENSION // 2]
        counts = [len(text.split()) + 2 for text in texts]
        fingerprint = self.fingerprint.encode()
        tensors: dict[str, tuple[str, int, bytes]] = {
            "embeddings": ("FP32", vectors.shape[1], vectors.astype("<f4").tobytes()),
            "token_count": ("INT32", 1, struct.pack(f"<{len(texts)}i", *(min(c, MAX_TOKENS) for c in counts))),
            "truncated": ("BOOL", 1, bytes(count > MAX_TOKENS for count in counts)),
            "fingerprint": ("BYTES", 1, (struct.pack("<I", len(fingerprint)) + fingerprint) * len(texts)),
        }
        outputs = [
            {
                "name": name,
                "datatype": tensors[name][0],
                "shape": [len(texts), tensors[name][1]],
                "parameters": {"binary_data_size": len(tensors[name][2])},
            }
            for name in names
        ]
        head = json.dumps({"model_name": MODEL, "model_version": "1", "outputs": outputs}).encode()
        return web.Response(
            body=head + b"".join(tensors[name][2] for name in names),
            content_type="application/octet-stream",
            headers={_SIZE_HEADER: str(len(head))},
        )
