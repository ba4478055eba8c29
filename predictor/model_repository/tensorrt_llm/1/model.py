"""Triton model that generates text on CPUs: adapts requests and responses to `predictor.engines`."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb

from predictor.engines import llmapi
from predictor.engines.batch import BatchEngine, Job, Load, Update
from predictor.engines.process import ProcessPipeline
from predictor.engines.settings import EngineSettings
from predictor.errors import CancelledError, GenerationError, InvalidInputError
from predictor.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

DEFAULT_CONTEXT_TOKENS = 2048
"""Used if the model's files have no limit."""


class TritonPythonModel:
    """Queues a generation for each request and returns immediately. The engine responds from its own threads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model."""
        threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True).start()
        config = json.loads(args["model_config"])
        settings = EngineSettings.read(config, os.environ)
        self._input_names = [tensor["name"] for tensor in config["input"]]
        self._tokenizer = TextTokenizer.load(settings.model_dir)
        limits = (settings.context_tokens, self._tokenizer.context_tokens)
        self._context_tokens = min((limit for limit in limits if limit), default=DEFAULT_CONTEXT_TOKENS)

        def load() -> ProcessPipeline:
            pipeline = ProcessPipeline(settings, self._tokenizer.end_ids)
            self._context_tokens = min(self._context_tokens, pipeline.capacity_tokens)
            return pipeline

        self._timeout_s = settings.timeout_s
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._engine = BatchEngine(
            load,
            self._tokenizer.decode,
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            on_load=LoadMetrics().report,
        )

    def execute(self, requests: list[Any]) -> None:
        """Queues every request, or responds with an error."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._accept(request, sender)
            except GenerationError as error:
                send_error(sender, error)
            except Exception:
                logger.exception("A request could not be read.")
                send_error(sender, GenerationError("The server could not read this request."))

    def finalize(self) -> None:
        """Ends all generations."""
        self._engine.close()

    def _accept(self, request: Any, sender: Any) -> None:
        inputs = {
            name: tensor.as_numpy()
            for name in self._input_names
            if (tensor := pb.get_input_tensor_by_name(request, name)) is not None
        }
        request_id = request.request_id()
        if llmapi.is_stop_request(inputs):
            self._stop(request_id)
        parsed = llmapi.parse(inputs, self._tokenizer, self._context_tokens)
        timeout_s = llmapi.timeout_s(json.loads(request.parameters()), self._timeout_s)
        listener = TritonListener(parsed, sender, lambda ended: self._forget(request_id, ended))
        with self._lock:
            job = self._engine.submit(
                parsed.ids, parsed.sampling, listener, streaming=parsed.streaming, timeout_s=timeout_s
            )
            if request_id:
                self._jobs[request_id] = job

    def _stop(self, request_id: str) -> None:
        if not request_id:
            raise InvalidInputError("stop needs the id of the request to stop.")
        with self._lock:
            job = self._jobs.get(request_id)
        if job is not None:
            self._engine.cancel(job)
        raise CancelledError("Request cancelled by client")

    def _forget(self, request_id: str, ended: TritonListener) -> None:
        with self._lock:
            job = self._jobs.get(request_id)
            if job is not None and job.listener is ended:
                del self._jobs[request_id]


class TritonListener:
    """Sends the updates of a generation as responses to its request."""

    def __init__(self, request: llmapi.LlmapiRequest, sender: Any, on_end: Callable[[TritonListener], None]) -> None:
        self._request = request
        self._sender = sender
        self._on_end = on_end

    def update(self, update: Update) -> None:
        """Sends one response; the last one has the final flag."""
        tensors = [pb.Tensor(name, array) for name, array in llmapi.respond(self._request, update).items()]
        flags = 0
        if update.finish_reason is not None:
            flags = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            self._on_end(self)
        self._sender.send(pb.InferenceResponse(output_tensors=tensors), flags=flags)

    def fail(self, error: GenerationError) -> None:
        """Sends an error as the last response."""
        self._on_end(self)
        send_error(self._sender, error)

    def gone(self) -> bool:
        """Whether the client has disconnected."""
        return bool(self._sender.is_cancelled())


class LoadMetrics:
    """Reports the engine's load on Triton's metrics port."""

    def __init__(self) -> None:
        gauge, counter = pb.MetricFamily.GAUGE, pb.MetricFamily.COUNTER
        self._families = {
            "running": pb.MetricFamily("predictor_running_requests", "Answers being generated", gauge),
            "waiting": pb.MetricFamily("predictor_waiting_requests", "Requests in the queue", gauge),
            "cache_usage": pb.MetricFamily("predictor_kv_cache_usage_ratio", "Share of the KV cache in use", gauge),
            "prompt_tokens": pb.MetricFamily("predictor_prompt_tokens_total", "Prompt tokens processed", counter),
            "completion_tokens": pb.MetricFamily("predictor_completion_tokens_total", "Tokens generated", counter),
        }
        self._metrics = {field: family.Metric(labels={}) for field, family in self._families.items()}
        self._reported = Load(waiting=0, running=0, cache_usage=0.0, prompt_tokens=0, completion_tokens=0)

    def report(self, load: Load) -> None:
        """Updates all metrics."""
        for field, metric in self._metrics.items():
            change = getattr(load, field) - getattr(self._reported, field)
            if change:
                if field.endswith("_tokens"):
                    metric.increment(change)
                else:
                    metric.set(getattr(load, field))
        self._reported = load


def exit_with_parent(parent: int) -> None:
    """Ends this process soon after Triton ends. Otherwise it would keep generating after Triton was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def send_error(sender: Any, error: GenerationError) -> None:
    """Responds to a request with an error and the final flag."""
    code = getattr(pb.TritonError, error.kind)
    sender.send(
        pb.InferenceResponse(error=pb.TritonError(str(error), code)), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    )
