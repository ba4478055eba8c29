"""A fake embedder: Triton's v2 protocol with binary tensors, and vectors made from hashed words.

Source of the wire: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from aiohttp import web

from tests.fakes.loopback import ThreadedServer

DIMENSION = 64
FINGERPRINT = "hash@sha256:" + "1" * 64
OTHER_FINGERPRINT = "other@sha256:" + "2" * 64
MODEL = "minilm"
MAX_TOKENS = 256
WHOLE_OUTPUTS = ("sparse_indices", "sparse_weights", "multi_vectors", "multi_vector_count")

Fault = Literal["failure", "unavailable", "garbage", "slow", "rows", "nan", "dimension"]

_SIZE_HEADER = "Inference-Header-Content-Length"
_WHO_ARE_YOU = [""]
"""Texts of the client's request for the fingerprint."""


def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """float32[n, 64], rows L2-normalised; texts that share words are near each other."""
    vectors = np.empty((len(texts), DIMENSION), np.float32)
    for row, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower()) or [""]
        hashed = b"".join(hashlib.shake_128(word.encode()).digest(2 * DIMENSION) for word in words)
        total = np.frombuffer(hashed, "<i2").reshape(-1, DIMENSION).sum(axis=0, dtype=np.float64)
        vectors[row] = total / np.linalg.norm(total)
    return vectors


def embed_tokens(text: str) -> npt.NDArray[np.float32]:
    """float32[words, 64], rows L2-normalised: the vector of each word."""
    return embed(re.findall(r"\w+", text.lower()) or [""])


def embed_sparse(text: str) -> tuple[list[int], list[float]]:
    """Ids of the words of the text, ascending, and their weights: half their count."""
    counts = Counter(int.from_bytes(word.encode()[:2], "big") for word in re.findall(r"\w+", text.lower()))
    return sorted(counts), [counts[token] / 2 for token in sorted(counts)]


def _whole(texts: Sequence[str]) -> dict[str, tuple[str, list[int], bytes]]:
    sparse, matrices = [embed_sparse(text) for text in texts], [embed_tokens(text) for text in texts]
    width, length = max(1, *(len(ids) for ids, _ in sparse)), max(len(matrix) for matrix in matrices)
    indices = np.full((len(texts), width), -1, "<i4")
    weights = np.zeros((len(texts), width), "<f4")
    padded = np.zeros((len(texts), length, DIMENSION), "<f4")
    for row, ((ids, values), matrix) in enumerate(zip(sparse, matrices, strict=True)):
        indices[row, : len(ids)], weights[row, : len(ids)], padded[row, : len(matrix)] = ids, values, matrix
    counts = np.array([len(matrix) for matrix in matrices], "<i4")
    return {
        "sparse_indices": ("INT32", [width], indices.tobytes()),
        "sparse_weights": ("FP32", [width], weights.tobytes()),
        "multi_vectors": ("FP32", [length, DIMENSION], padded.tobytes()),
        "multi_vector_count": ("INT32", [1], counts.tobytes()),
    }


class LoopbackEmbedder(ThreadedServer):
    """Serves on loopback from its own thread. Tests may change its attributes at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = FINGERPRINT
        self.fault: Fault | None = None
        """Fault of every response."""
        self.whole = False
        """Whether the model also gives learned sparse vectors and multi-vectors."""
        self.next_statuses: list[int] = []
        """HTTP statuses of the next responses to requests with texts."""
        self.fails_after: int | None = None
        """Number of texts after which requests with texts get status 503."""
        self.exchanged_after: int | None = None
        """Number of texts after which another model answers."""
        self.waits_for = 0
        """Requests wait until this many are in flight."""
        self.held = threading.Event()
        """Set when a request waits because of `hold`."""
        self.calls: list[list[str]] = []
        """The texts of each request."""
        self.texts: Counter[str] = Counter()
        """Passage → how often it was sent; `remembers` and `forget` apply to it too."""
        self.remembers = True
        """Whether `calls` is kept."""
        self.headers: dict[str, str] = {}
        """Headers of the latest request; names in lower case."""
        self.embedded = 0
        """Passages embedded so far."""
        self.most_at_once = 0
        self._at_once = 0
        self._arrived = asyncio.Event()
        self._hold: asyncio.Event | None = None
        self._waiting: asyncio.Event | None = None

    def forget(self) -> None:
        """Forgets the requests so far."""
        self.calls.clear()
        self.texts.clear()

    def hold(self) -> None:
        """Makes new requests wait; `held` is set when the first one waits."""
        self._hold = asyncio.Event()

    def pass_new(self) -> None:
        """Lets new requests pass; waiting ones keep waiting."""
        self._waiting, self._hold = self._hold, None

    def release(self) -> None:
        """Releases the waiting requests."""
        assert self._waiting is not None
        self.call(self._waiting.set)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_get(f"/v2/models/{MODEL}", self._metadata)
        app.router.add_post(f"/v2/models/{MODEL}/infer", self._infer)
        return app

    async def _metadata(self, _: web.Request) -> web.Response:
        names = ["embeddings", "token_count", "truncated", "fingerprint", *(WHOLE_OUTPUTS if self.whole else ())]
        outputs = [{"name": name, "datatype": "FP32", "shape": [-1, -1]} for name in names]
        return web.json_response({"name": MODEL, "versions": ["1"], "platform": "python", "outputs": outputs})

    async def _infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        head_size = int(request.headers[_SIZE_HEADER])
        head = json.loads(body[:head_size])
        inputs = _bytes_inputs(head, body[head_size:])
        texts = inputs["text_input"]
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        if self.remembers:
            self.calls.append(texts)
        hold = self._hold  # which `pass_new` may take away as soon as `held` is set
        if hold is not None:
            self.held.set()
            await hold.wait()
        fault = self.fault
        if texts != _WHO_ARE_YOU:
            passages = texts if "passage" in inputs["input_type"] else []
            if self.remembers:
                self.texts.update(passages)
            if self.next_statuses:
                return web.json_response({"error": "no"}, status=self.next_statuses.pop(0))
            if self.fails_after is not None and self.embedded >= self.fails_after:
                fault = "unavailable"
            else:
                self.embedded += len(passages)
                await self._wait_for_others()
        match fault:
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

    async def _wait_for_others(self) -> None:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self._arrived.set()
        self._arrived.clear()
        while self.most_at_once < self.waits_for:
            await asyncio.wait_for(self._arrived.wait(), 30)
        self._at_once -= 1

    def _answer(self, texts: list[str], names: list[str]) -> web.Response:
        rows = len(texts)
        vectors = embed(texts)
        if self.fault == "nan":
            vectors[0, 0] = np.nan
        if self.fault == "dimension":
            vectors = vectors[:, : DIMENSION // 2]
        counts = [len(text.split()) + 2 for text in texts]
        exchanged = self.exchanged_after is not None and self.embedded >= self.exchanged_after
        fingerprint = (OTHER_FINGERPRINT if exchanged else self.fingerprint).encode()
        data: dict[str, tuple[str, list[int], bytes]] = {
            "embeddings": ("FP32", [vectors.shape[1]], vectors.astype("<f4").tobytes()),
            "token_count": ("INT32", [1], struct.pack(f"<{rows}i", *(min(count, MAX_TOKENS) for count in counts))),
            "truncated": ("BOOL", [1], bytes(count > MAX_TOKENS for count in counts)),
            "fingerprint": ("BYTES", [1], (struct.pack("<I", len(fingerprint)) + fingerprint) * rows),
            **(_whole(texts) if self.whole else {}),
        }
        unknown = set(names) - data.keys()
        if unknown:
            return web.json_response({"error": f"unexpected inference output {unknown}"}, status=400)
        outputs = [
            {
                "name": name,
                "datatype": data[name][0],
                "shape": [rows, *data[name][1]],
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


def _bytes_inputs(head: dict[str, Any], data: bytes) -> dict[str, list[str]]:
    """The texts of each BYTES tensor, by its name."""
    tensors: dict[str, list[str]] = {}
    start = 0
    for tensor in head["inputs"]:
        end = start + tensor["parameters"]["binary_data_size"]
        texts = []
        while start < end:
            (length,) = struct.unpack_from("<I", data, start)
            texts.append(data[start + 4 : start + 4 + length].decode())
            start += 4 + length
        assert len(texts) == tensor["shape"][0]
        tensors[tensor["name"]] = texts
    return tensors
