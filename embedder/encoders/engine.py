"""Runs an OpenVINO model on the CPU, several batches at a time."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from embedder.encoders.batches import plan_batches
from embedder.settings import Arithmetic, EncoderSettings

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

_INT8_GROUP = 32
"""Number of activations that share a scale when they are quantised. OpenVINO's default on CPUs with VNNI."""

PROPERTIES: Mapping[Arithmetic, Mapping[str, Any]] = {
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
        *,
        properties: Mapping[str, Any] | None = None,
        default_streams: int | None = None,
    ) -> None:
        """Compiles `model`.

        Args:
            model: the network.
            settings: settings of the engine.
            properties: OpenVINO's properties for the precision; by default those of the settings' precision, with
                `auto` as f32.
            default_streams: number of streams if the settings have none; one per thread if None.
        """
        self._settings = settings
        if properties is None:
            properties = PROPERTIES["f32" if settings.precision == "auto" else settings.precision]
        threads = settings.threads or usable_cpus()
        self.streams = min(threads, settings.streams or default_streams or threads)
        compiled = ov.Core().compile_model(
            model,
            "CPU",
            {
                **properties,
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": self.streams,
                # Triton may run several models on these cores: pinned threads of all models would share the same few.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.streams):
            self._requests.put(compiled.create_infer_request())
        self._pool = ThreadPoolExecutor(self.streams, thread_name_prefix="encode")

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """See `plan_batches`: within the limits of the settings, and so that no stream idles beside a full one."""
        return plan_batches(
            lengths,
            max_texts=min(self._settings.batch_texts, max(1, -(-len(lengths) // self.streams))),
            max_tokens=self._settings.batch_tokens,
        )

    def run(
        self,
        batches: Sequence[Mapping[str, npt.NDArray[np.int64]]],
        collect: Callable[[int, Mapping[Any, npt.NDArray[np.float32]]], None],
    ) -> None:
        """Runs all batches. Calls `collect` with each batch's position in `batches` and its outputs.

        `collect` is called from several threads. It must copy what it keeps: the engine reuses the arrays.
        """

        def run_one(position: int) -> None:
            request = self._requests.get()
            try:
                collect(position, request.infer(batches[position], share_inputs=True, share_outputs=True))
            finally:
                self._requests.put(request)

        if len(batches) == 1:
            run_one(0)
            return
        for _ in self._pool.map(run_one, range(len(batches))):
            pass


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
