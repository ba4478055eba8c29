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

import argparse
import gc
import io
import json
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
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import XLMRobertaConfig, XLMRobertaModel

from benchmarks.document import machine, record
from embedder.agreement import agreement
from embedder.encoders.bge_m3 import BgeM3Encoder
from embedder.encoders.engine import computes_bfloat16, usable_cpus
from embedder.encoders.linear import Storage, quantized
from embedder.export import export
from embedder.settings import Arithmetic, EncoderSettings
from embedder.wire import Embeddings, SparseVector

TITLE = "BGE-M3 on the CPU"
LAYERS, HIDDEN, INNER, HEADS, VOCABULARY, POSITIONS = 24, 1024, 4096, 16, 250_002, 8194
TEXTS, SHORTEST, LONGEST = 48, 8, 432
BATCH_SIZES = (4, 16)
GEMM_ROWS = 512
GEMM_S = 2.0


@dataclass(slots=True)
class Rate:
    """Figures of the fastest turn."""

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
    """One precision and FlagEmbedding's turns beside it."""

    ours: Rate = field(default_factory=Rate)
    theirs: Rate = field(default_factory=Rate)
    gemm: Rate = field(default_factory=Rate)
    start_s: float = 0
    exported_start_s: float = 0
    exported_mb: float = 0


def write_folder(folder: Path, layers: int = LAYERS) -> None:
    """Write random weights with a fixed seed in the Hugging Face layout of BAAI/bge-m3."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [(token, 0.0) for token in special]
    pieces += [(f"▁w{number}", -5.0) for number in range(VOCABULARY - len(special))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    described = {f"{name}_token": token for name, token in names.items()}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": POSITIONS - 2, **described})
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(described))
    config = XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        architectures=["XLMRobertaModel"],
    )
    config.save_pretrained(folder)
    torch.manual_seed(7)
    torch.save(XLMRobertaModel(config).state_dict(), folder / "pytorch_model.bin")
    for head, outputs in (("sparse_linear.pt", 1), ("colbert_linear.pt", HIDDEN)):
        torch.save(torch.nn.Linear(HIDDEN, outputs).state_dict(), folder / head)


def make_texts() -> tuple[list[str], list[int]]:
    """Texts of one-token words, and their lengths in tokens with special tokens."""
    chance = random.Random(3)
    lengths = [chance.randint(SHORTEST, LONGEST) for _ in range(TEXTS)]
    return [" ".join(f"w{chance.randrange(VOCABULARY - 5)}" for _ in range(length - 2)) for length in lengths], lengths


def operations(lengths: Sequence[int], layers: int = LAYERS) -> float:
    """Multiplications and additions of linear maps and attention for texts of these lengths."""
    tokens, pairs = sum(lengths), sum(length * length for length in lengths)
    linear_maps = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER
    return 2.0 * (layers * (tokens * linear_maps + 2 * pairs * HIDDEN) + tokens * HIDDEN * (HIDDEN + 1))


GEMM_OPERATIONS = 8 * 2.0 * GEMM_ROWS * HIDDEN * INNER


def gemm(arithmetic: Arithmetic) -> Callable[[], None]:
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


def measure(rounds: int = 2, layers: int = LAYERS) -> list[str]:
    """The tables, as lines of Markdown."""
    torch.set_num_threads(usable_cpus())
    texts, lengths = make_texts()
    precisions: list[Storage] = ["f32", "bf16", "int8"] if computes_bfloat16() else ["f32", "int8"]
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "bge-m3"
        source.mkdir()
        write_folder(source, layers)
        flag = BGEM3FlagModel(str(source), use_fp16=False, devices="cpu")

        def encode(batch_size: int) -> Embeddings:
            with redirect_stderr(io.StringIO()):  # hide its progress bars
                made = flag.encode(
                    texts,
                    batch_size=batch_size,
                    max_length=POSITIONS - 2,
                    return_dense=True,
                    return_sparse=True,
                    return_colbert_vecs=True,
                )
            return _as_ours(made, lengths)

        sizes = {size: Rate() for size in BATCH_SIZES}
        for size, rate in sizes.items():
            with rate.turn():
                reference = encode(size)
        batch_size = min(sizes, key=lambda size: sizes[size].seconds)
        sides = {precision: Side() for precision in precisions}
        made = {}
        for precision, side in sides.items():
            made[precision] = _take_turns(source, precision, side, texts, lambda: encode(batch_size), rounds)
        source_mb = _size_mb(source)
    best = Rate(
        min([sizes[batch_size].seconds, *(side.theirs.seconds for side in sides.values())]),
        min([sizes[batch_size].processor_s, *(side.theirs.processor_s for side in sides.values())]),
    )
    tokens = sum(lengths)
    per_token = operations(lengths, layers) / tokens
    lines = [
        f"{TEXTS} texts, {tokens:,} tokens, {per_token / 1e6:.0f} million operations per token; FlagEmbedding in "
        f"batches of {batch_size}; {usable_cpus()} threads each.",
        "",
        "| | tokens/s | ratio, in turns | tokens per processor s | ratio | GEMM, GFLOP per processor s | share of it |",
        "|---|---|---|---|---|---|---|",
        f"| FlagEmbedding, fp32 | {tokens / best.seconds:.0f} | | {tokens / best.processor_s:.0f} | | | |",
    ]
    for precision, side in sides.items():
        rate, gemm_rate = tokens / side.ours.processor_s, GEMM_OPERATIONS / side.gemm.processor_s
        lines.append(
            f"| {_NAMES[precision]} | {tokens / side.ours.seconds:.0f} | "
            f"{side.theirs.seconds / side.ours.seconds:.1f} | {rate:.0f} | "
            f"{side.theirs.processor_s / side.ours.processor_s:.1f} | {gemm_rate / 1e9:.0f} | "
            f"{rate * per_token / gemm_rate:.0%} |"
        )
    lines += [
        "",
        "| | cosine of dense | of multi-vectors | largest difference of a sparse weight, of at most |",
        "|---|---|---|---|",
    ]
    largest = max(float(vector.weights.max(initial=0)) for vector in reference.sparse or ())
    for precision, embeddings in made.items():
        near = agreement(embeddings, reference)
        lines.append(
            f"| {_NAMES[precision]} | {near.dense:.6f} | {near.multi_vectors:.6f} | "
            f"{_sparse_difference(embeddings, reference):.4f}, {largest:.3f} |"
        )
    lines += ["", "| | start, s | size, MB |", "|---|---|---|"]
    for precision, side in sides.items():
        lines.append(f"| {_NAMES[precision]}, Hugging Face folder | {side.start_s:.1f} | {source_mb:,.0f} |")
        lines.append(f"| {_NAMES[precision]}, exported | {side.exported_start_s:.1f} | {side.exported_mb:,.0f} |")
    return lines


_NAMES: dict[Storage, str] = {"f32": "fp32", "bf16": "bf16", "int8": "int8"}


def _take_turns(
    source: Path,
    precision: Storage,
    side: Side,
    texts: Sequence[str],
    encode: Callable[[], Embeddings],
    rounds: int,
) -> Embeddings:
    """Measure one exported precision, alternating with FlagEmbedding; return its embeddings."""
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
    encoder.encode(texts)  # every shape's kernels are made at its first use
    multiply = gemm(precision)
    for _ in range(rounds):
        with side.theirs.turn():
            encode()
        with side.ours.turn():
            made = encoder.encode(texts, sparse=True, multi_vectors=True)
        until = time.perf_counter() + GEMM_S
        while time.perf_counter() < until:
            with side.gemm.turn():
                multiply()
    return made


def _as_ours(made: dict[str, Any], lengths: Sequence[int]) -> Embeddings:
    sparse = []
    for weights in made["lexical_weights"]:
        known = sorted((int(token), float(weight)) for token, weight in weights.items())
        sparse.append(
            SparseVector(
                np.array([token for token, _ in known], np.int32), np.array([weight for _, weight in known], np.float32)
            )
        )
    return Embeddings(
        made["dense_vecs"],
        np.array(lengths, np.int32),
        np.zeros(len(lengths), np.bool_),
        "FlagEmbedding",
        tuple(sparse),
        tuple(made["colbert_vecs"]),
    )


def _sparse_difference(ours: Embeddings, reference: Embeddings) -> float:
    def difference(one: SparseVector, other: SparseVector) -> float:
        mine, theirs = (dict(zip(v.indices.tolist(), v.weights.tolist(), strict=True)) for v in (one, other))
        return max((abs(mine.get(token, 0) - theirs.get(token, 0)) for token in mine.keys() | theirs.keys()), default=0)

    return max(difference(one, other) for one, other in zip(ours.sparse or (), reference.sparse or (), strict=True))


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def main() -> None:
    """Print the tables; optionally write them to docs/benchmarks.md."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embedder_rate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="record in docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side (default: 2)")
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer, for a quick look (default: 24)")
    arguments = parser.parse_args()
    lines = measure(arguments.rounds, arguments.layers)
    measured_on = machine(["openvino", "torch", "FlagEmbedding", "transformers"])
    section = f"{(__doc__ or '').strip()}\n\n{measured_on}\n\n" + "\n".join(lines)
    print(section)
    if arguments.write:
        record({TITLE: section})


if __name__ == "__main__":
    main()
