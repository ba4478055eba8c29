"""BGE-M3 on the CPU, all three heads: tokens per second of each precision against FlagEmbedding, on the same weights.

Random weights of full size (XLM-RoBERTa large: 24 layers, 1,024 dimensions, 250,002 tokens) with a fixed seed. 48 texts
of 8 to 432 tokens. FlagEmbedding is BGEM3FlagModel in fp32, which sorts texts by length, with the better of two batch
sizes: its default of 256 would pad all texts to the longest. FlagEmbedding and each precision alternate in one run, and
the fastest turn counts. Tokens exclude padding. Processor seconds vary less than wall time on a shared machine, though
FlagEmbedding's threads spend some of them waiting.

Share of the GEMM rate: operations of linear maps and attention per processor second, without padding, relative to a big
matrix product in the same arithmetic and turn; int8 products have fixed scales. Agreement: the lowest cosine to
FlagEmbedding's embeddings, and for sparse weights, which are near zero with random heads, the largest difference.
Random weights show the accuracy of the arithmetic; `python -m embedder.export` reports the loss of 8 bits with trained
weights.
"""

from __future__ import annotations

import gc
import io
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from FlagEmbedding import BGEM3FlagModel
from openvino import opset13 as ops

from benchmarks.document import Options
from embedder.agreement import agreement
from embedder.encoders.bge_m3 import BgeM3Encoder
from embedder.encoders.engine import computes_bfloat16, usable_cpus
from embedder.encoders.linear import quantized
from embedder.export import export
from embedder.settings import EncoderSettings, Precision
from embedder.wire import Embeddings, SparseVector
from evaluation.markdown import table
from tests.with_torch.tiny_bge_m3 import write_tokenizer, write_weights

TITLE = "BGE-M3 on the CPU"
LIBRARIES = ("openvino", "torch", "FlagEmbedding", "transformers")
LAYERS, HIDDEN, INNER, HEADS, VOCABULARY, MAX_TOKENS = 24, 1024, 4096, 16, 250_002, 8192
TEXTS, SHORTEST, LONGEST = 48, 8, 432
BATCH_SIZES = (4, 16)
ROUNDS = 2
GEMM_ROWS = 512
GEMM_S = 2.0


@dataclass(slots=True)
class Rate:
    """Figures of the fastest run."""

    seconds: float = float("inf")
    processor_s: float = float("inf")

    @contextmanager
    def turn(self) -> Iterator[None]:
        began, processor = time.perf_counter(), time.process_time()
        yield
        self.seconds = min(self.seconds, time.perf_counter() - began)
        self.processor_s = min(self.processor_s, time.process_time() - processor)


@dataclass(slots=True)
class Side:
    """Figures of a precision, and of FlagEmbedding in alternation with it."""

    ours: Rate = field(default_factory=Rate)
    theirs: Rate = field(default_factory=Rate)
    gemm: Rate = field(default_factory=Rate)
    start_s: float = 0
    exported_start_s: float = 0
    exported_mb: float = 0


def make_texts() -> tuple[list[str], list[int]]:
    """Texts of one-token words, and their lengths in tokens with special tokens."""
    chance = random.Random(3)
    lengths = [chance.randint(SHORTEST, LONGEST) for _ in range(TEXTS)]
    return [" ".join(f"w{chance.randrange(VOCABULARY - 5)}" for _ in range(length - 2)) for length in lengths], lengths


def operations(lengths: Sequence[int], layers: int) -> float:
    """Number of operations (multiplications and additions) of linear maps and attention for texts of these lengths."""
    tokens, pairs = sum(lengths), sum(length * length for length in lengths)
    linear_maps = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER
    return 2.0 * (layers * (tokens * linear_maps + 2 * pairs * HIDDEN) + tokens * HIDDEN * (HIDDEN + 1))


GEMM_OPERATIONS = 8 * 2.0 * GEMM_ROWS * HIDDEN * INNER


def gemm(arithmetic: Precision) -> Callable[[], None]:
    """A chain of products [512, 1024] @ [1024, 4096] @ [4096, 1024] …, eight long: `GEMM_OPERATIONS`.

    OpenVINO runs it with nothing between the products but, in int8, their quantisation.
    """
    chance = np.random.default_rng(0)
    start = ops.parameter([GEMM_ROWS, HIDDEN], np.float32)
    node = start
    for step in range(8):
        width, outputs = (HIDDEN, INNER) if step % 2 == 0 else (INNER, HIDDEN)
        weight = (chance.standard_normal((outputs, width)) / width**0.5).astype(np.float32)
        if arithmetic == "int8":
            low, high = np.float32(-4), np.float32(4)
            node = ops.fake_quantize(node, low, high, low, high, 255)
            values, scales = quantized(weight)
            factor = ops.multiply(ops.convert(ops.constant(values), np.float32), ops.constant(scales))
        else:
            factor = ops.constant(weight)
        node = ops.matmul(node, factor, False, True)
    compiled = ov.Core().compile_model(
        ov.Model([node], [start], "gemm"),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if arithmetic == "bf16" else "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            "INFERENCE_NUM_THREADS": usable_cpus(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        },
    )
    request = compiled.create_infer_request()
    rows = chance.standard_normal((GEMM_ROWS, HIDDEN)).astype(np.float32)
    request.infer([rows])
    return lambda: request.infer([rows], share_inputs=True, share_outputs=True)


def measure(options: Options) -> list[str]:
    """The tables."""
    rounds, layers = (1, 1) if options.quick else (ROUNDS, LAYERS)
    torch.set_num_threads(usable_cpus())
    texts, lengths = make_texts()
    precisions: list[Precision] = ["f32", "bf16", "int8"] if computes_bfloat16() else ["f32", "int8"]
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "bge-m3"
        source.mkdir()
        vocabulary = write_tokenizer(source, [f"w{number}" for number in range(VOCABULARY - 5)], MAX_TOKENS)
        sizes = {"hidden": HIDDEN, "heads": HEADS, "layers": layers, "max_tokens": MAX_TOKENS}
        write_weights(source, "pytorch_model.bin", vocabulary=vocabulary, noise=0, **sizes)
        flag = BGEM3FlagModel(str(source), use_fp16=False, devices="cpu")

        def encode(batch_size: int) -> Embeddings:
            with redirect_stderr(io.StringIO()):  # hide its progress bars
                found = flag.encode(
                    texts,
                    batch_size=batch_size,
                    max_length=MAX_TOKENS,
                    return_dense=True,
                    return_sparse=True,
                    return_colbert_vecs=True,
                )
            return _as_ours(found, lengths)

        rates = {size: Rate() for size in BATCH_SIZES}
        for size, rate in rates.items():
            with rate.turn():
                reference = encode(size)
        batch_size = min(rates, key=lambda size: rates[size].seconds)
        sides = {precision: Side() for precision in precisions}
        embedded = {}
        for precision, side in sides.items():
            embedded[precision] = _take_turns(source, precision, side, texts, lambda: encode(batch_size), rounds)
        source_mb = _size_mb(source)
    turns = [rates[batch_size], *(side.theirs for side in sides.values())]
    theirs = Rate(min(rate.seconds for rate in turns), min(rate.processor_s for rate in turns))
    tokens = sum(lengths)
    per_token = operations(lengths, layers) / tokens
    speeds, agreements, starts = [], [], []
    largest = max(float(vector.weights.max(initial=0)) for vector in reference.sparse or ())
    for precision, side in sides.items():
        name = _NAMES[precision]
        rate, gemm_rate = tokens / side.ours.processor_s, GEMM_OPERATIONS / side.gemm.processor_s
        speeds.append(
            {
                "": name,
                "tokens/s": f"{tokens / side.ours.seconds:.0f}",
                "ratio, in turns": f"{side.theirs.seconds / side.ours.seconds:.1f}",
                "tokens per processor s": f"{rate:.0f}",
                "ratio": f"{side.theirs.processor_s / side.ours.processor_s:.1f}",
                "GEMM, GFLOP per processor s": f"{gemm_rate / 1e9:.0f}",
                "share of it": f"{rate * per_token / gemm_rate:.0%}",
            }
        )
        near = agreement(embedded[precision], reference)
        agreements.append(
            {
                "": name,
                "cosine of dense": f"{near.dense:.6f}",
                "of multi-vectors": f"{near.multi_vectors:.6f}",
                "largest difference of a sparse weight, of at most": (
                    f"{_sparse_difference(embedded[precision], reference):.4f}, {largest:.3f}"
                ),
            }
        )
        for kind, start_s, size_mb in (
            ("Hugging Face folder", side.start_s, source_mb),
            ("exported", side.exported_start_s, side.exported_mb),
        ):
            starts.append({"": f"{name}, {kind}", "start, s": f"{start_s:.1f}", "size, MB": f"{size_mb:,.0f}"})
    speeds.append(
        {
            "": "FlagEmbedding, fp32",
            "tokens/s": f"{tokens / theirs.seconds:.0f}",
            "tokens per processor s": f"{tokens / theirs.processor_s:.0f}",
        }
    )
    return [
        f"{TEXTS} texts, {tokens:,} tokens, {per_token / 1e6:.0f} million operations per token; FlagEmbedding in "
        f"batches of {batch_size}; {usable_cpus()} threads each.",
        table(speeds),
        table(agreements),
        table(starts),
    ]


_NAMES: dict[Precision, str] = {"f32": "fp32", "bf16": "bf16", "int8": "int8"}


def _take_turns(
    source: Path,
    precision: Precision,
    side: Side,
    texts: Sequence[str],
    encode: Callable[[], Embeddings],
    rounds: int,
) -> Embeddings:
    """Measure an exported precision in alternation with FlagEmbedding. Returns its embeddings."""
    settings = EncoderSettings(architecture="bge_m3", precision=precision)
    began = time.perf_counter()
    encoder = BgeM3Encoder(source, settings)
    side.start_s = time.perf_counter() - began
    del encoder
    gc.collect()
    target = source.parent / precision
    export(source, target, precision, texts=())
    side.exported_mb = _size_mb(target)
    began = time.perf_counter()
    encoder = BgeM3Encoder(target, settings)
    side.exported_start_s = time.perf_counter() - began
    encoder.encode(texts)  # OpenVINO compiles kernels at the first use of a shape
    multiply = gemm(precision)
    for _ in range(rounds):
        with side.theirs.turn():
            encode()
        with side.ours.turn():
            embeddings = encoder.encode(texts, sparse=True, multi_vectors=True)
        until = time.perf_counter() + GEMM_S
        while time.perf_counter() < until:
            with side.gemm.turn():
                multiply()
    return embeddings


def _as_ours(found: dict[str, Any], lengths: Sequence[int]) -> Embeddings:
    sparse = []
    for weights in found["lexical_weights"]:
        known = sorted((int(token), float(weight)) for token, weight in weights.items())
        sparse.append(
            SparseVector(
                np.array([token for token, _ in known], np.int32), np.array([weight for _, weight in known], np.float32)
            )
        )
    return Embeddings(
        found["dense_vecs"],
        np.array(lengths, np.int32),
        np.zeros(len(lengths), np.bool_),
        "FlagEmbedding",
        tuple(sparse),
        tuple(found["colbert_vecs"]),
    )


def _sparse_difference(ours: Embeddings, reference: Embeddings) -> float:
    def difference(one: SparseVector, other: SparseVector) -> float:
        mine, theirs = (dict(zip(v.indices.tolist(), v.weights.tolist(), strict=True)) for v in (one, other))
        return max((abs(mine.get(token, 0) - theirs.get(token, 0)) for token in mine.keys() | theirs.keys()), default=0)

    return max(difference(one, other) for one, other in zip(ours.sparse or (), reference.sparse or (), strict=True))


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6
