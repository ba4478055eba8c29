"""Prints the GPU memory of a Llama's weights, and the tokens that fit into the rest: `python manifests/sizes.py`.

Weights: parameters × bytes. Keys and values of a token: 2 × layers × key-value heads × head size × bytes. The cache is
a share of the memory that weights and run time leave free.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

GIB = 2**30
RUNTIME_GIB = 4.0
"""Memory of each GPU for CUDA, its libraries, NCCL and activations of 8,192 tokens in a step: an estimate."""
CACHE_SHARE = 0.85
"""free_gpu_memory_fraction of components/gpu-trtllm."""
REQUEST_TOKENS = 4096
"""Tokens of a long question: the transformer's prompt of at most 3,072, and its answer."""


@dataclass(frozen=True)
class Llama:
    """Shape of a model. Source: its config.json."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def cached_values(self) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.hidden // self.heads

    @property
    def outer_parameters(self) -> int:
        """Parameters of embedding and output head, which quantisers keep at 16 bits."""
        return 2 * self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Parameters of the whole model; embedding and output head are not shared."""
        per_layer = 2 * self.hidden * self.hidden + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * per_layer + self.cached_values * self.hidden + self.hidden + self.outer_parameters


MODELS = {
    "Llama 2 7B": Llama(layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, vocabulary=32000),
    "Llama 3.1 8B": Llama(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, vocabulary=128256),
    "Llama 3.1 70B": Llama(layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, vocabulary=128256),
}

PRECISIONS = {"bf16": (2.0, 2), "fp8": (1.0, 1), "int4 AWQ": (0.5 + 2 / 128, 2)}
"""Name → bytes per inner weight (AWQ: half a byte, and a 16-bit scale for each 128 of them), bytes per cached value."""

GPUS_GIB = {"L4 24 GB": 22.5, "A100 40 GB": 40.0, "A100 80 GB": 80.0, "H100 80 GB": 79.6, "H200 141 GB": 140.4}
"""Memory as nvidia-smi reports it, in GiB."""

PLANS = [
    ("Llama 2 7B", "bf16", "L4 24 GB", 1),
    ("Llama 2 7B", "bf16", "A100 40 GB", 1),
    ("Llama 2 7B", "fp8", "L4 24 GB", 1),
    ("Llama 3.1 8B", "bf16", "L4 24 GB", 1),
    ("Llama 3.1 8B", "fp8", "L4 24 GB", 1),
    ("Llama 3.1 8B", "bf16", "A100 40 GB", 1),
    ("Llama 3.1 8B", "bf16", "H100 80 GB", 1),
    ("Llama 3.1 70B", "bf16", "H100 80 GB", 2),
    ("Llama 3.1 70B", "bf16", "H100 80 GB", 4),
    ("Llama 3.1 70B", "bf16", "A100 80 GB", 4),
    ("Llama 3.1 70B", "bf16", "H200 141 GB", 2),
    ("Llama 3.1 70B", "fp8", "H100 80 GB", 2),
    ("Llama 3.1 70B", "fp8", "H200 141 GB", 1),
    ("Llama 3.1 70B", "int4 AWQ", "A100 80 GB", 1),
]


def row(model: str, precision: str, gpu: str, count: int) -> str:
    """A line of the table."""
    llama = MODELS[model]
    inner_bytes, value_bytes = PRECISIONS[precision]
    outer = llama.outer_parameters
    weights = ((llama.parameters - outer) * inner_bytes + outer * 2) / GIB
    per_token = llama.cached_values * value_bytes
    free = count * (GPUS_GIB[gpu] - RUNTIME_GIB) - weights
    tokens = int(free * CACHE_SHARE * GIB / per_token)
    fits = f"{tokens:,} | {tokens // REQUEST_TOKENS}" if tokens >= REQUEST_TOKENS else "does not fit | 0"
    return f"| {model} | {precision} | {count} × {gpu} | {weights:.1f} | {per_token // 1024} | {free:.1f} | {fits} |"


def main() -> None:
    """Prints the table as Markdown."""
    lines = [
        "| model | weights in | GPUs | weights GiB | KiB per token | left GiB | tokens in cache | questions at once |",
        "|---|---|---|---|---|---|---|---|",
        *(row(*plan) for plan in PLANS),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
