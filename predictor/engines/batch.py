"""Many generations at once on one engine: queueing, stepping, cancelling, and what happens when the engine dies.

The engine itself stands behind the `Pipeline` protocol, and one thread alone touches it. Another thread talks to the
callers, so that no slow caller holds up a step.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from predictor.engines.text import TextAssembler
from predictor.errors import CancelledError, GenerationError, OverloadedError
from predictor.wire import FinishReason

logger = logging.getLogger(__name__)

POLL_S = 0.05
"""Interval at which listeners are asked whether their client is still connected."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen, and when to end. Values are in range."""

    max_tokens: int
    greedy: bool
    temperature: float = 1.0
    top_k: int = 0
    """0 considers every token."""
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    log_probs: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """New tokens of one generation since the last read."""

    ids: Sequence[int]
    """Without the token that ends an answer."""
    log_prob: float
    """Sum over the tokens; 0 unless asked for."""
    finish_reason: FinishReason | None


class Generation(Protocol):
    """One prompt being continued inside a pipeline."""

    def read(self) -> Output | None:
        """The new tokens since the last call; None if there are none.

        Raises:
            GenerationError: the pipeline has dropped this generation.
        """
        ...

    def cancel(self) -> None:
        """Marks the generation; the next step frees its memory."""
        ...


class Pipeline(Protocol):
    """An engine with continuous batching. Not thread-safe; after an exception from `step` it is unusable."""

    def start(self, ids: Sequence[int], sampling: SamplingParams) -> Generation:
        """Queues a prompt. An exception concerns this prompt only."""
        ...

    def step(self) -> None:
        """Computes the next piece of every generation, frees those that have ended."""
        ...

    def busy(self) -> bool:
        """Whether a step would have anything to do."""
        ...

    def cache_usage(self) -> float:
        """Part of the KV cache that running generations hold, 0 to 1."""
        ...


@dataclass(frozen=True, slots=True)
class Timings:
    """When things happened to one generation, in `time.monotonic_ns()`; 0 where they have not."""

    arrival: int
    first_scheduled: int
    first_token: int
    last_token: int


@dataclass(frozen=True, slots=True)
class Update:
    """How far a generation is. The last one has a finish reason."""

    text: str
    """All the text so far."""
    finish_reason: FinishReason | None
    stop_reason: str | None
    """The stop string that ended it."""
    log_prob: float
    """Sum over all tokens so far; 0 unless asked for."""
    prompt_tokens: int
    completion_tokens: int
    timings: Timings


class Listener(Protocol):
    """Receives the updates of one generation. Called from one thread, which is not the engine's."""

    def update(self, update: Update) -> None:
        """More text, or the end. A slow listener gets several steps in one update."""
        ...

    def fail(self, error: GenerationError) -> None:
        """The generation failed. No update follows."""
        ...

    def gone(self) -> bool:
        """Whether the client has disconnected."""
        ...


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the engine is, and what it has done since it started."""

    waiting: int
    running: int
    cache_usage: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(eq=False, slots=True)
class Job:
    """One generation, from arrival to completion. Any thread may set `cancelled`; only the engine sets the rest."""

    ids: Sequence[int]
    sampling: SamplingParams
    listener: Listener
    streaming: bool
    text: TextAssembler
    cancelled: bool = False
    generation: Generation | None = None
    completion_tokens: int = 0
    log_prob: float = 0.0
    undelivered: Update | None = None
    told_end: bool = False
    """Whether the listener has been told the end. Set where it is told; from then on it is asked nothing: Triton frees
    a request's sender with its last response, and dies of a question to one that is freed."""
    arrival: int = field(default_factory=time.monotonic_ns)
    first_scheduled: int = 0
    first_token: int = 0
    last_token: int = 0


class BatchEngine:
    """Runs any number of generations on one pipeline, fairly and within bounds.

    A pipeline that fails is replaced by a new one, unless it had not finished a single generation since the last.

    Args:
        make_pipeline: loads what computes; only this engine touches the result. Its first failure is the caller's.
        decode: token ids to text.
        max_running: generations inside the pipeline at once.
        max_waiting: generations that wait for a place; more are refused.
        on_load: told about the load whenever it has changed, at most every `POLL_S` seconds.
    """

    def __init__(
        self,
        make_pipeline: Callable[[], Pipeline],
        decode: Callable[[Sequence[int]], str],
        *,
        max_running: int,
        max_waiting: int,
        on_load: Callable[[Load], None],
    ) -> None:
        self._make_pipeline = make_pipeline
        self._pipeline = make_pipeline()
        self._proven = False
        self._decode = decode
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._on_load = on_load
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._closed: str | None = None
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cache_usage = 0.0
        self._mail: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._step_forever, name="engine", daemon=True),
            threading.Thread(target=self._deliver_forever, name="delivery", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, ids: Sequence[int], sampling: SamplingParams, listener: Listener, *, streaming: bool) -> Job:
        """Queues a prompt. The listener gets its updates; without `streaming` only the last.

        Raises:
            OverloadedError: the queue is full, or the engine has stopped.
        """
        job = Job(ids, sampling, listener, streaming, TextAssembler(self._decode, sampling.stop))
        with self._changed:
            if self._closed is not None:
                raise OverloadedError(self._closed)
            if len(self._waiting) + len(self._running) >= self._max_running + self._max_waiting:
                raise OverloadedError(
                    f"{self._max_running} generations are running and {self._max_waiting} are waiting, which is the "
                    "limit. Try again shortly."
                )
            self._waiting.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Ends a job soon, with `CancelledError`. Does nothing to one that has ended."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    def load(self) -> Load:
        """How busy the engine is right now."""
        with self._changed:
            return Load(
                len(self._waiting),
                len(self._running),
                self._cache_usage,
                self._prompt_tokens,
                self._completion_tokens,
            )

    def close(self) -> None:
        """Fails what is unfinished and waits until both threads have ended."""
        self._shut("The server is shutting down.")
        self._threads[0].join()
        self._mail.put(None)
        self._threads[1].join()

    def _step_forever(self) -> None:
        try:
            while not self._step_until_broken():
                self._pipeline = self._make_pipeline()
        except Exception:
            logger.exception("The engine could not be loaded again.")
        self._shut("The engine has stopped after errors of its own. The server must be restarted.")
        self._fail_all(self._closed or "", self._running, self._waiting)

    def _step_until_broken(self) -> bool:
        """True if the engine is closed or cannot recover. False: a new pipeline may work."""
        self._proven = False
        try:
            while self._wait_for_work():
                self._drop_cancelled()
                self._start_waiting()
                if self._pipeline.busy():
                    self._pipeline.step()
                self._collect()
                self._cache_usage = self._pipeline.cache_usage() if self._pipeline.busy() else 0.0
        except Exception:
            logger.exception("The engine broke while it computed %d generations.", len(self._running))
            self._fail_all("The engine broke while it computed this answer. Try again.", self._running)
            return not self._proven
        return True

    def _fail_all(self, reason: str, *jobs: list[Job] | deque[Job]) -> None:
        with self._changed:
            failed = [job for some in jobs for job in some]
            for some in jobs:
                some.clear()
        for job in failed:
            self._fail(job, OverloadedError(reason))

    def _shut(self, reason: str) -> None:
        with self._changed:
            self._closed = self._closed or reason
            self._changed.notify()

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed is not None or self._waiting or self._running or self._pipeline.busy()
            )
            return self._closed is None

    def _drop_cancelled(self) -> None:
        with self._changed:
            dropped = [job for job in (*self._running, *self._waiting) if job.cancelled]
            if not dropped:
                return
            self._running = [job for job in self._running if not job.cancelled]
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
        for job in dropped:
            if job.generation is not None:
                job.generation.cancel()
            self._fail(job, CancelledError("Request cancelled by client"))

    def _start_waiting(self) -> None:
        while len(self._running) < self._max_running:
            with self._changed:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            try:
                job.generation = self._pipeline.start(job.ids, job.sampling)
            except Exception:
                logger.exception("A prompt of %d tokens could not be started.", len(job.ids))
                self._fail(job, GenerationError("The engine could not start this prompt."))
                continue
            job.first_scheduled = time.monotonic_ns()
            with self._changed:
                self._running.append(job)
                self._prompt_tokens += len(job.ids)

    def _collect(self) -> None:
        ended = [job for job in self._running if self._advance(job)]
        if ended:
            with self._changed:
                self._running = [job for job in self._running if job not in ended]

    def _advance(self, job: Job) -> bool:
        """Delivers the new text of a job. True if the job has ended."""
        generation = job.generation
        assert generation is not None, "a running job has been started"  # noqa: S101
        try:
            output = generation.read()
        except GenerationError as error:
            self._fail(job, error)
            return True
        if output is None:
            return False
        now = time.monotonic_ns()
        job.first_token = job.first_token or now
        job.last_token = now
        job.completion_tokens += len(output.ids)
        job.log_prob += output.log_prob
        self._completion_tokens += len(output.ids)
        shown = len(job.text.visible)
        job.text.push(output.ids)
        finish_reason = output.finish_reason
        if finish_reason is not None:
            job.text.finish()
        if job.text.stopped_by is not None:
            if finish_reason is None:
                generation.cancel()
            finish_reason = "stop"
        self._proven = self._proven or finish_reason is not None
        if finish_reason is not None or (job.streaming and len(job.text.visible) > shown):
            update = Update(
                job.text.visible,
                finish_reason,
                job.text.stopped_by,
                job.log_prob,
                len(job.ids),
                job.completion_tokens,
                Timings(job.arrival, job.first_scheduled, job.first_token, job.last_token),
            )
            self._tell(job, update)
        return finish_reason is not None

    def _fail(self, job: Job, error: GenerationError) -> None:
        self._mail.put(lambda: self._tell_failure(job, error))

    @staticmethod
    def _tell_failure(job: Job, error: GenerationError) -> None:
        if not job.told_end:
            job.told_end = True
            job.listener.fail(error)

    def _tell(self, job: Job, update: Update) -> None:
        """Queues the update for delivery. It replaces one that is still queued: each holds all the text so far."""
        with self._changed:
            waits, job.undelivered = job.undelivered is not None, update
        if not waits:
            self._mail.put(lambda: self._tell_latest(job))

    def _tell_latest(self, job: Job) -> None:
        with self._changed:
            update, job.undelivered = job.undelivered, None
        if update is None:
            return
        ended = update.finish_reason is not None
        if ended or not job.cancelled:  # one that was cancelled when it had ended is told nothing else
            job.told_end = ended
            job.listener.update(update)

    def _deliver_forever(self) -> None:
        polled, told = time.monotonic(), None
        while True:
            try:
                letter = self._mail.get(timeout=POLL_S)
            except queue.Empty:
                pass
            else:
                if letter is None:
                    return
                self._attempt(letter)
            if time.monotonic() - polled >= POLL_S:
                self._poll()
                load = self.load()
                if load != told:
                    self._attempt(functools.partial(self._on_load, load))
                    told = load
                polled = time.monotonic()

    @staticmethod
    def _attempt(call: Callable[[], None]) -> None:
        """Calls out. One listener's failure is no reason to leave the others without answers."""
        try:
            call()
        except Exception:
            logger.exception("A listener failed.")

    def _poll(self) -> None:
        with self._changed:
            jobs = [job for job in (*self._running, *self._waiting) if not (job.cancelled or job.told_end)]
        for job in jobs:
            self._attempt(functools.partial(self._ask, job))

    def _ask(self, job: Job) -> None:
        if job.listener.gone():
            self.cancel(job)
