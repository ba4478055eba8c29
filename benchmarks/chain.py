"""Throughput of the chain with stub models behind the real services, beside bare KServe handlers, in one run.

transformer → vectorstore → embedder and transformer → predictor: once with the real services, once with bare handlers
that only forward, over aiohttp and over httpx. Embedder and predictor are the same stub for all.

`unchecked` is the product without the check of citations, which the bare handlers do not have: hops, search and prompt.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import Progress

from benchmarks.processes import free_port, running
from benchmarks.triton_stub import DIMENSION, FINGERPRINT, embed
from vectorstore.versions import Chunk, Document, IndexRoot

QUESTION = "What does the launcher do when a service does not start?"
CLIENTS = (1, 16, 64)
LATENCIES = {"instant": (0, 0), "10 ms + 300 ms": (10, 300)}
CHAINS = ("kserve-rag", "unchecked", "aiohttp hops", "httpx hops")


def build_index(root: Path, documents: int = 100) -> None:
    """An index of 5 chunks per document. The first documents are near the stub's vector of a question."""
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
            text = "\n\n".join(parts)
            chunks, start = [], 0
            for part in parts:
                chunks.append(
                    Chunk(f"d{number}-{start}", f"d{number}", part, start, start + len(part), ("Guide", "Launcher"))
                )
                start += len(part) + 2
            vectors = np.stack([near + embed(chunk.text) * (1 + number / 10) for chunk in chunks])
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            builder.add(
                Document(f"d{number}", text, f"Document {number}", None, f"{number}.md", "0" * 64), chunks, vectors
            )
        builder.publish()


@contextlib.contextmanager
def chain(name: str, index: Path, prompt_format: Path, latencies: tuple[float, float]) -> Iterator[tuple[str, bytes]]:
    """Run a chain; yields its URL and a request body."""
    stub, vectorstore, transformer = free_port(), free_port(), free_port()
    stub_url = f"http://127.0.0.1:{stub}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            running(["-m", "benchmarks.triton_stub", str(stub), *map(str, latencies)], f"{stub_url}/ready")
        )
        if name in ("kserve-rag", "unchecked"):
            quiet = {"LOG_LEVEL": "warning", "HOST": "127.0.0.1", "ENABLE_GRPC": "false"}
            settings = {"INDEX_ROOT": str(index), "EMBEDDER_URL": stub_url, "HTTP_PORT": str(vectorstore), **quiet}
            stack.enter_context(
                running(
                    ["-m", "vectorstore"],
                    f"http://127.0.0.1:{vectorstore}/v2/models/vectorstore/ready",
                    {f"VECTORSTORE_{key}": value for key, value in settings.items()},
                )
            )
            settings = {
                "HTTP_PORT": str(transformer),
                "VECTORSTORE_URL": f"http://127.0.0.1:{vectorstore}",
                "PREDICTOR_URL": stub_url,
                "PROMPT_FORMAT": str(prompt_format),
                "CITATIONS": "off" if name == "unchecked" else "label",
                **quiet,
            }
            stack.enter_context(
                running(
                    ["-m", "transformer"],
                    f"http://127.0.0.1:{transformer}/v2/models/rag/ready",
                    {f"TRANSFORMER_{key}": value for key, value in settings.items()},
                )
            )
            yield (
                f"http://127.0.0.1:{transformer}/v1/models/rag:predict",
                json.dumps({"instances": [{"input": QUESTION}]}).encode(),
            )
            return
        library = name.split()[0]
        embedder = f"{stub_url}/v2/models/minilm/infer"
        predictor = f"{stub_url}/v2/models/tensorrt_llm/generate_stream"
        for hop, port, urls in (
            ("vectorstore", vectorstore, [embedder]),
            ("rag", transformer, [f"http://127.0.0.1:{vectorstore}/v1/models/vectorstore:predict", predictor]),
        ):
            stack.enter_context(
                running(
                    ["-m", "benchmarks.bare_hop", hop, str(port), library, *urls],
                    f"http://127.0.0.1:{port}/v2/health/live",
                )
            )
        inputs = [{"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": [QUESTION]}]
        yield (
            f"http://127.0.0.1:{transformer}/v1/models/rag:predict",
            json.dumps({"instances": [], "inputs": inputs}).encode(),
        )


def load(url: str, body: bytes, clients: int, seconds: float) -> dict[str, float]:
    """One measurement, from a separate process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", url, str(clients), str(seconds)],
        input=body,
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def measure(prompt_format: Path, seconds: float) -> list[str]:
    """The table, as lines of Markdown."""
    results: dict[tuple[str, str, int], dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        index = Path(folder)
        build_index(index)
        task = progress.add_task("chain", total=len(LATENCIES) * len(CHAINS) * len(CLIENTS))
        for latency, milliseconds in LATENCIES.items():
            for name in CHAINS:
                with chain(name, index, prompt_format, milliseconds) as (url, body):
                    for clients in CLIENTS:
                        results[latency, name, clients] = load(url, body, clients, seconds)
                        progress.advance(task)
    lines = [
        "| models | clients | kserve-rag req/s (p50 ms) | unchecked | aiohttp hops | httpx hops | ratio to aiohttp "
        "| unchecked | errors |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for latency in LATENCIES:
        for clients in CLIENTS:
            ours, bare, aio, httpx = (results[latency, name, clients] for name in CHAINS)
            errors = sum(result["errors"] for result in (ours, bare, aio, httpx))
            lines.append(
                f"| {latency} | {clients} | {ours['rate']:.0f} ({ours['p50_ms']:.1f}) | {bare['rate']:.0f} | "
                f"{aio['rate']:.0f} | {httpx['rate']:.0f} | {ours['rate'] / aio['rate']:.2f} | "
                f"{bare['rate'] / aio['rate']:.2f} | {errors:.0f} |"
            )
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "prompt_format", type=Path, help="folder with an LLM's tokenizer.json and tokenizer_config.json"
    )
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (default: 5)")
    arguments = parser.parse_args()
    print("\n".join(measure(arguments.prompt_format, arguments.seconds)))
