"""Runs an OpenVINO model on the CPU, several batches in parallel."""

from __future__ import annotations

import os
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from embedder.encoders.base import Collect, Encoder, TokenIds
from embedder.encoders.batches import pad, padded_length, plan_batches
from embedder.settings import EncoderSettings, Precision

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

_INT8_GROUP = 32
"""Number of activations that share a scale when they are quantised. OpenVINO's default on CPUs with VNNI."""

PROPERTIES: Mapping[Precision, Mapping[str, Any]] = {
    # Both must be set: OpenVINO's defaults use bfloat16 on CPUs that have it, and quantise activations.
    "f32": {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
    "int8": {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": _INT8_GROUP},
}


class Engine:
    """A model compiled for the CPU. Safe for concurrent use."""

    def __init__(
        self,
        model: ov.Model,
        settings: EncoderSettings,
        properties: Mapping[str, Any],
        *,
        padding_id: int,
        max_tokens: int,
        default_streams: int | None = None,
    ) -> None:
        """Compiles `model`.

        Args:
            model: inputs int64[n, tokens] `input_ids`, `attention_mask` and optionally `token_type_ids`.
            settings: settings of the engine.
            properties: OpenVINO's properties for the precision.
            padding_id: id of the padding token.
            max_tokens: maximum length of a text in tokens.
            default_streams: number of streams if the settings do not set it; None: one per thread.
        """
        self._settings, self._padding_id, self._max_tokens = settings, padding_id, max_tokens
        self._inputs = {port.any_name for port in model.inputs}
        threads = settings.threads or usable_cpus()
        self.streams = min(threads, settings.streams or default_streams or threads)
        compiled = ov.Core().compile_model(
            model,
            "CPU",
            {
                **properties,
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": self.streams,
                # With several models in one Triton, the pinned threads of all of them would share the same few cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.streams):
            self._requests.put(compiled.create_infer_request())
        self._pool = ThreadPoolExecutor(self.streams, thread_name_prefix="encode")

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """Batches within the limits of the settings, for all streams. See `plan_batches`."""
        return plan_batches(
            lengths,
            max_texts=min(self._settings.batch_texts, max(1, -(-len(lengths) // self.streams))),
            max_tokens=self._settings.batch_tokens,
        )

    def run(self, batches: Sequence[Sequence[TokenIds]], collect: Collect) -> None:
        """Runs all batches. `collect` is called from several threads; the engine reuses the arrays of the outputs."""

        def run_one(position: int) -> None:
            feed = self._feed(batches[position])
            request = self._requests.get()
            try:
                collect(position, request.infer(feed, share_inputs=True, share_outputs=True))
            finally:
                self._requests.put(request)

        if len(batches) == 1:
            run_one(0)
            return
        for _ in self._pool.map(run_one, range(len(batches))):
            pass

    def _feed(self, ids: Sequence[TokenIds]) -> dict[str, TokenIds]:
        padded, mask = pad(ids, self._padding_id, padded_length(max(map(len, ids)), self._max_tokens))
        feed = {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(padded)}
        return {name: tensor for name, tensor in feed.items() if name in self._inputs}


class EngineEncoder(Encoder):
    """An encoder on an `Engine`."""

    _engine: Engine

    def _plan(self, lengths: Sequence[int]) -> list[list[int]]:
        return self._engine.plan(lengths)

    def _run(
        self, batches: Sequence[Sequence[TokenIds]], collect: Collect, *, sparse: bool, multi_vectors: bool
    ) -> None:
        self._engine.run(batches, collect)


def model_of(outputs: Mapping[str, ov.Node], parameters: Sequence[ov.Node], name: str) -> ov.Model:
    """A model with these outputs and parameters."""
    results = []
    for output, node in outputs.items():
        result = ops.result(node)
        result.output(0).set_names({output})
        results.append(result)
    return ov.Model(results, parameters, name)


def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def usable_cpus() -> int:
    """Number of CPUs that this process may use, by its affinity and its container's quota."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_QUOTA.read_text("ascii").split()
        return max(1, min(cpus, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or quota "max"
        return cpus
