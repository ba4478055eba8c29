"""The pipeline for CPUs, on OpenVINO GenAI: GGUF or OpenVINO IR models, continuous batching, prefix caching."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai

from predictor.engines.batch import Output, SamplingParams
from predictor.engines.settings import EngineSettings
from predictor.errors import ModelFilesError, OverloadedError
from predictor.wire import FinishReason

logger = logging.getLogger(__name__)

_BLOCK_TOKENS = 32
"""Tokens in a block of the KV cache on CPUs. Source: openvino.genai `paged_attention_transformations`."""

_FINISH: dict[genai.GenerationFinishReason, FinishReason | None] = {
    genai.GenerationFinishReason.NONE: None,
    genai.GenerationFinishReason.STOP: "stop",
    genai.GenerationFinishReason.LENGTH: "length",
}


class OpenVinoPipeline:
    """A `Pipeline` that wraps `ContinuousBatchingPipeline`.

    Args:
        settings: limits, and the model's folder, with `model.gguf` or an exported OpenVINO model.
        end_ids: tokens that end an answer.

    Raises:
        ModelFilesError: OpenVINO GenAI cannot read the model.
    """

    def __init__(self, settings: EngineSettings, end_ids: frozenset[int]) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = settings.kv_cache_gb
        scheduler.max_num_batched_tokens = settings.max_batch_tokens
        scheduler.max_num_seqs = settings.max_running
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        folder = settings.model_dir
        weights = folder / "model.gguf"
        try:
            if not weights.exists():
                self._pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU")
            elif settings.cache_dir is None:
                self._pipeline = _load(weights, scheduler)
            else:
                try:
                    self._pipeline = _load_cached(weights, settings.cache_dir, scheduler)
                except (RuntimeError, OSError):
                    logger.exception("The model cannot be kept in %s.", settings.cache_dir)
                    self._pipeline = _load(weights, scheduler)
        except (RuntimeError, OSError) as error:
            raise ModelFilesError(f"OpenVINO GenAI cannot load the model in {folder}: {error}") from error
        self._end_ids = end_ids
        self._request_ids = itertools.count()
        self.capacity_tokens = self._warm_up()
        """Size of the KV cache in tokens, which limits prompt and answer together."""

    def _warm_up(self) -> int:
        """Generates one token, which compiles the kernels. Returns the size of the KV cache in tokens."""
        first = self.start([0], SamplingParams(max_tokens=1, greedy=True))
        while first.read() is None:
            self.step()
        return int(_BLOCK_TOKENS / self.cache_usage())

    def start(self, ids: Sequence[int], sampling: SamplingParams) -> OpenVinoGeneration:
        """Queues a prompt."""
        config = genai.GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            stop_token_ids=set(self._end_ids),
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logprobs=int(sampling.log_probs),
            do_sample=not sampling.greedy,
        )
        if self._end_ids:
            config.set_eos_token_id(min(self._end_ids))  # a cached model has none of its own
        if not sampling.greedy:
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.rng_seed = sampling.seed
            if sampling.top_k:
                config.top_k = sampling.top_k
        tensor = ov.Tensor(np.array([ids], dtype=np.int64))
        return OpenVinoGeneration(self._pipeline.add_request(next(self._request_ids), tensor, config), self._end_ids)

    def step(self) -> None:
        """Runs one forward pass for all scheduled generations."""
        self._pipeline.step()

    def busy(self) -> bool:
        """Whether a generation is unfinished, or cancelled and not yet freed."""
        return bool(self._pipeline.has_non_finished_requests())

    def cache_usage(self) -> float:
        """Share of the KV cache used at the last step, 0 to 1."""
        return float(self._pipeline.get_metrics().cache_usage) / 100


def _load(weights: Path, scheduler: genai.SchedulerConfig) -> genai.ContinuousBatchingPipeline:
    with _writable(weights) as path:
        return genai.ContinuousBatchingPipeline(str(path), scheduler, "CPU")


def _load_cached(weights: Path, cache_dir: Path, scheduler: genai.SchedulerConfig) -> genai.ContinuousBatchingPipeline:
    """Loads the OpenVINO model that an earlier load kept, or the GGUF file, and keeps the model."""
    file = weights.stat()
    cached = cache_dir / f"{genai.__version__}-{file.st_size}-{file.st_mtime_ns}"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _locked(cache_dir):
        if cached.exists():
            return genai.ContinuousBatchingPipeline(str(cached), scheduler, "CPU")
        for outdated in cache_dir.iterdir():
            shutil.rmtree(outdated)
        folder = cache_dir / "converting"
        folder.mkdir()
        try:
            with _writable(weights) as path:
                link = folder / weights.name
                link.symlink_to(path.resolve())
                # It saves the model beside the GGUF file.
                pipeline = genai.ContinuousBatchingPipeline(str(link), scheduler, "CPU", {"enable_save_ov_model": True})
                link.unlink()
            folder.rename(cached)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return pipeline


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Excludes other processes until the block, or this process, ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writable(weights: Path) -> Iterator[Path]:
    """The file, or a temporary copy if it is read-only: OpenVINO GenAI also opens GGUF files for writing."""
    if os.access(weights, os.W_OK):
        yield weights
        return
    with tempfile.TemporaryDirectory(prefix="kserve-rag-gguf-") as folder:
        yield Path(shutil.copyfile(weights, Path(folder) / weights.name))


class OpenVinoGeneration:
    """A `Generation` of an `OpenVinoPipeline`."""

    def __init__(self, handle: genai.GenerationHandle, end_ids: frozenset[int]) -> None:
        self._handle = handle
        self._end_ids = end_ids

    def read(self) -> Output | None:
        """Tokens since the last call. Raises OverloadedError if it was dropped because the KV cache is full."""
        ids: list[int] = []
        log_prob = 0.0
        finish_reason: FinishReason | None = None
        while self._handle.can_read():
            for piece in self._handle.read().values():
                ids.extend(piece.generated_ids)
                log_prob += sum(piece.generated_log_probs)
                finish_reason = _FINISH[piece.finish_reason]
        if self._handle.get_status() == genai.GenerationStatus.IGNORED:
            raise OverloadedError("The KV cache is full. Try again shortly, or with a shorter prompt.")
        if not ids and finish_reason is None:
            return None
        if finish_reason == "stop" and ids[-1] in self._end_ids:
            ids.pop()
        return Output(ids, log_prob, finish_reason)

    def cancel(self) -> None:
        """Cancels the generation; the next step frees its part of the KV cache."""
        self._handle.cancel()
