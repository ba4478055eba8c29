"""A stub of Triton's HTTP API for embedder and predictor, with fixed latencies.

Models of known speed leave the services and hops to be measured. It is as thin as Python allows (an asyncio protocol on
httptools) because it shares the cores with them.

    python -m benchmarks.triton_stub PORT EMBEDDER_MS PREDICTOR_MS
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import zlib
from typing import Any

import httptools
import numpy as np
import orjson
import uvloop

DIMENSION = 384
FINGERPRINT = "stub@sha256:" + "0" * 64
ANSWER = "The stub has answered."


def embed(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32[384], L2-normalised; deterministic per text."""
    vector = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIMENSION, dtype=np.float32)
    return vector / np.linalg.norm(vector)


OUTPUTS = {
    "embeddings": ("FP32", DIMENSION, embed("question").tobytes()),
    "token_count": ("INT32", 1, struct.pack("<i", 8)),
    "truncated": ("BOOL", 1, b"\0"),
    "fingerprint": ("BYTES", 1, struct.pack("<I", len(FINGERPRINT)) + FINGERPRINT.encode()),
}
"""Output tensor → datatype, width, and bytes of a row."""


class StubProtocol(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, without concurrency within a connection."""

    embedder_s = 0.0
    predictor_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = b""
        self._json_size: int | None = None

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"inference-header-content-length":
            self._json_size = int(value)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        url, body, json_size = self._url, self._body, self._json_size
        self._url, self._body, self._json_size = b"", b"", None
        if url.endswith(b"/infer"):
            self._later(self.embedder_s, self._embeddings(body, json_size))
        elif url.endswith(b"/generate_stream"):
            self._later(self.predictor_s, _GENERATED)
        else:
            self._transport.write(_METADATA)

    def _later(self, delay_s: float, answer: bytes) -> None:
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, self._write, answer)
        else:
            self._transport.write(answer)

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)

    def _embeddings(self, body: bytes, json_size: int | None) -> bytes:
        head = orjson.loads(body[:json_size])
        rows = head["inputs"][0]["shape"][0]
        names = [output["name"] for output in head.get("outputs", ())] or ["embeddings"]
        tensors, blobs = [], []
        for name in names:
            datatype, width, row = OUTPUTS[name]
            blobs.append(row * rows)
            parameters = {"binary_data_size": len(blobs[-1])}
            tensors.append({"name": name, "datatype": datatype, "shape": [rows, width], "parameters": parameters})
        answer = orjson.dumps({"model_name": "minilm", "model_version": "1", "outputs": tensors})
        size = f"Inference-Header-Content-Length: {len(answer)}\r\n".encode()
        return _response(answer + b"".join(blobs), b"application/octet-stream", size)


def _response(body: bytes, content_type: bytes, extra: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n" % (content_type, extra, len(body))
    return head + body


_METADATA = _response(b'{"name":"stub","ready":true,"inputs":[],"outputs":[]}', b"application/json")
_GENERATED = _response(
    b"data: "
    + json.dumps(
        {
            "model_name": "tensorrt_llm",
            "model_version": "1",
            "text_output": ANSWER,
            "finish_reason": "stop",
            "num_input_tokens": 100,
            "num_output_tokens": 5,
        }
    ).encode()
    + b"\n\n",
    b"text/event-stream",
)


async def main(port: int, embedder_ms: float, predictor_ms: float) -> None:
    StubProtocol.embedder_s = embedder_ms / 1000
    StubProtocol.predictor_s = predictor_ms / 1000
    server = await asyncio.get_running_loop().create_server(StubProtocol, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
