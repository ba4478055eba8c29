"""llama.cpp's own server, as an independent reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import xllamacpp


class LlamaCpp:
    """One GGUF file on a loopback port; it goes with the object."""

    def __init__(self, weights: Path, *, context_tokens: int = 1024) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(weights)
        params.n_ctx = context_tokens
        params.n_parallel = 1
        params.port = 0
        params.warmup = False
        # Several threads would spin while they wait for each other, which is very slow on a busy machine.
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        self._server = xllamacpp.Server(params)
        self.url: str = self._server.listening_address
        self._client = httpx.Client(base_url=self.url, timeout=60)

    def close(self) -> None:
        self._client.close()
        del self._server

    def tokenize(self, text: str) -> list[int]:
        tokens = self._post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
        return list(tokens)

    def greedy(self, prompt: str, max_tokens: int) -> list[int]:
        """The tokens that follow, with the one that ends the answer."""
        body = {"prompt": prompt, "n_predict": max_tokens, "temperature": 0, "top_k": 1, "return_tokens": True}
        return list(self._post("/completion", body)["tokens"])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self._client.post(path, json=body)
        response.raise_for_status()
        parsed: dict[str, Any] = response.json()
        return parsed
