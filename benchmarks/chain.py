"""Throughput of the real services with stub models, compared with bare KServe handlers in the same run.

transformer → vectorstore → embedder and transformer → predictor: once with the real services, once with bare handlers
that only forward, over aiohttp and over httpx. Embedder and predictor are the same stub for all.

`unchecked` is the product without the check of citations, which the bare handlers do not have: hops, search and prompt.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import Progress

from benchmarks.document import Options
from benchmarks.load import load
from benchmarks.processes import free_port, in_a_process, llm_folder, running
from benchmarks.triton_stub import DIMENSION, FINGERPRINT, embed
from evaluation.markdown import table
from vectorstore.versions import Chunk, Document, IndexRoot

TITLE = "Chain throughput"
QUESTION = "What does the launcher do when a service does not start?"
CLIENTS = (1, 16, 64)
LATENCIES = {"instant": (0, 0), "10 ms + 300 ms": (10, 300)}
CHAINS = ("kserve-rag", "unchecked", "aiohttp hops", "httpx hops")


def build_index(root: Path, documents: int = 100) -> None:
    """Builds an index of 5 chunks per document. The first documents are near the question's vector."""
    near = embed("question")
    with IndexRoot(root, "default").begin(
        embedder_fingerprint=FINGERPRINT, dimension=DIMENSION, settings={}
    ) as builder:
        for number in range(documents):
            parts = [
                f"Part {part} of document {number}: the launcher starts service {number % 7} and waits until it is "
                f"ready; when a service does not start, its last lines are shown. " * 3
                for part in range(5)
            ]
            name = f"d{number}"
            chunks, start = [], 0
            for part in parts:
                chunks.append(Chunk(f"{name}-{start}", name, part, start, start + len(part), ("Guide", "Launcher")))
                start += len(part) + 2
            vectors = np.stack([near + embed(chunk.text) * (1 + number / 10) for chunk in chunks])
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            document = Document(name, "\n\n".join(parts), f"Document {number}", None, f"{number}.md", "0" * 64)
            builder.add(document, chunks, vectors)
        builder.publish()


@contextlib.contextmanager
def chain(name: str, index: Path, embedder_ms: float, predictor_ms: float) -> Iterator[tuple[str, bytes]]:
    """Runs a chain whose models have these latencies. Yields its URL and a request body."""
    ports = {service: free_port() for service in ("models", "vectorstore", "transformer")}
    urls = {service: f"http://127.0.0.1:{port}" for service, port in ports.items()}
    stub = ["-m", "benchmarks.triton_stub", str(ports["models"]), str(embedder_ms), str(predictor_ms)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(stub, f"{urls['models']}/ready"))
        if name in ("kserve-rag", "unchecked"):
            body: dict[str, object] = {"instances": [{"input": QUESTION}]}
            own = {
                "vectorstore": {"INDEX_ROOT": str(index), "EMBEDDER_URL": urls["models"]},
                "transformer": {
                    "VECTORSTORE_URL": urls["vectorstore"],
                    "PREDICTOR_URL": urls["models"],
                    "PROMPT_FORMAT": str(llm_folder()),
                    "ANSWERS": "write",
                    "CITATIONS": "off" if name == "unchecked" else "label",
                },
            }
            for service, model in (("vectorstore", "vectorstore"), ("transformer", "rag")):
                settings = {"LOG_LEVEL": "warning", "HOST": "127.0.0.1", "ENABLE_GRPC": "false", **own[service]}
                settings["HTTP_PORT"] = str(ports[service])
                environ = {f"{service.upper()}_{key}": value for key, value in settings.items()}
                ready = f"{urls[service]}/v2/models/{model}/ready"
                stack.enter_context(running(["-m", service], ready, **environ))
        else:
            inputs = [{"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": [QUESTION]}]
            body = {"instances": [], "inputs": inputs}
            search = f"{urls['vectorstore']}/v1/models/vectorstore:predict"
            generate = f"{urls['models']}/v2/models/tensorrt_llm/generate_stream"
            for service, model, upstreams in (
                ("vectorstore", "vectorstore", [f"{urls['models']}/v2/models/minilm/infer"]),
                ("transformer", "rag", [search, generate]),
            ):
                hop = ["-m", "benchmarks.bare_hop", model, str(ports[service]), name.split()[0], *upstreams]
                stack.enter_context(running(hop, f"{urls[service]}/v2/health/live"))
        yield f"{urls['transformer']}/v1/models/rag:predict", json.dumps(body).encode()


def measure(options: Options) -> list[str]:
    """The table."""
    results: dict[tuple[str, str, int], dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        build_index(Path(folder))
        task = progress.add_task("chain", total=len(LATENCIES) * len(CHAINS) * len(CLIENTS))
        for latency, milliseconds in LATENCIES.items():
            for name in CHAINS:
                with chain(name, Path(folder), *milliseconds) as (url, body):
                    for clients in CLIENTS:
                        results[latency, name, clients] = in_a_process(load, url, body, clients, options.seconds)
                        progress.advance(task)
    rows = []
    for latency in LATENCIES:
        for clients in CLIENTS:
            found = {name: results[latency, name, clients] for name in CHAINS}
            ours, bare, aiohttp, httpx = (found[name]["rate"] for name in CHAINS)
            rows.append(
                {
                    "models": latency,
                    "clients": str(clients),
                    "kserve-rag req/s (p50 ms)": f"{ours:.0f} ({found['kserve-rag']['p50_ms']:.1f})",
                    "unchecked": f"{bare:.0f}",
                    "aiohttp hops": f"{aiohttp:.0f}",
                    "httpx hops": f"{httpx:.0f}",
                    "ratio to aiohttp": f"{ours / aiohttp:.2f}",
                    "unchecked, ratio": f"{bare / aiohttp:.2f}",
                    "errors": f"{sum(one['errors'] for one in found.values()):.0f}",
                }
            )
    return [table(rows)]
