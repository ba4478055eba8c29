"""Runs many generations on one engine: queueing, stepping, cancellation, and recovery when the engine fails.

One thread steps the engine, a `Pipeline`. Another thread calls the listeners, so that a slow one never delays a step.

The queue is ordered by arrival plus expected duration, so that short answers are not held up by long ones and every
request gets its turn. A request that cannot be answered before its deadline because of those ahead of it is rejected.
"""

from __future__ import annotations

import bisect
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from predictor.engines.text import TextAssembler
from predictor.engines.waits import Forecast, Rate
from predictor.errors import BusyError, CancelledError, GenerationError, OverloadedError
from predictor.wire import FinishReason

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""Interval at which listeners that get no text are asked whether their client is still connected."""
REPORT_S = 0.05
"""Minimum interval between reports of the load."""
REVIEW_S = 0.5
"""Interval at which the queue is searched for requests that will not meet their deadline."""
ADMITTED_SHARE = 0.7
"""A request is accepted beside others if it is expected to end within this share of its time."""
LOADED_SHARE = 0.25
"""Share of the places that has to be taken to use all cores."""
UNMEASURED_RUNNING = 32
"""Maximum number of running generations until the rate is known."""
_USED_SHARE_WEIGHT = 0.05
"""Weight of one answer in the average length of answers."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose the next token, and when to stop. Values are valid."""

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
    """Without the end-of-answer token."""
    log_prob: float
    """Sum over the tokens; 0 unless requested."""
    finish_reason: FinishReason | None


class Generation(Protocol):
    """One generation inside a pipeline."""

    def read(self) -> Output | None:
        """The new tokens since the last call, or None. Raises GenerationError if the pipeline dropped it."""

    def cancel(self) -> None:
        """Cancels the generation; the next step frees its memory."""


class Pipeline(Protocol):
    """An engine with continuous batching. Not thread-safe; after an exception from `step` it is unusable."""

    def start(self, ids: Sequence[int], sampling: SamplingParams) -> Generation:
        """Queues a prompt. An exception concerns this prompt only."""

    def step(self) -> None:
        """Advances every generation, and frees those that have ended."""

    def busy(self) -> bool:
        """Whether a step would have anything to do."""

    def cache_usage(self) -> float:
        """Share of the KV cache that running generations use, 0 to 1."""

    def close(self) -> None:
        """Frees the engine's memory. Also called after a failure."""


@dataclass(slots=True)
class Timings:
    """Times in the life of one generation, in `time.monotonic_ns()`; 0: not reached yet."""

    arrival: int = field(default_factory=time.monotonic_ns)
    first_scheduled: int = 0
    first_token: int = 0
    last_token: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """Progress of a generation. The last one has a finish reason."""

    text: str
    """The whole text so far."""
    finish_reason: FinishReason | None
    stop_reason: str | None
    """The stop string that ended it."""
    log_prob: float
    """Sum over all tokens so far; 0 unless requested."""
    prompt_tokens: int
    completion_tokens: int
    timings: Timings


class Listener(Protocol):
    """Receives the updates of one generation. Called from one thread, not the engine's."""

    def update(self, update: Update) -> None:
        """New text, or the end. A slow listener gets several steps in one update."""

    def fail(self, error: GenerationError) -> None:
        """The generation failed. No update follows."""

    def gone(self) -> bool:
        """Whether the client has disconnected."""


@dataclass(frozen=True, slots=True)
class Load:
    """Number of jobs now, and number of tokens since the start."""

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
    timeout_s: float
    """Time from its arrival to its deadline."""
    arrival: float = field(default_factory=time.monotonic)
    turn: float = 0.0
    """The waiting job with the least starts next."""
    cancelled: bool = False
    generation: Generation | None = None
    completion_tokens: int = 0
    log_prob: float = 0.0
    timings: Timings = field(default_factory=Timings)
    undelivered: Update | GenerationError | None = None
    """Queued for the listener. A newer update replaces it: each has the whole text so far."""
    ended: bool = False
    """The last outcome is queued, so `gone` must not be called any more: Triton frees a request's sender with its last
    response, and crashes if it is used afterwards."""

    def tokens_left(self, used_share: float) -> float:
        """Expected number of tokens still to process, if answers use this share of their `max_tokens`."""
        prompt = 0 if self.completion_tokens else len(self.ids)
        return prompt + max(1.0, self.sampling.max_tokens * used_share - self.completion_tokens)


class BatchEngine:
    """Runs generations on one pipeline, with a bounded queue.

    A pipeline that fails is replaced, unless it has not finished a single generation.

    Args:
        make_pipeline: loads a pipeline. The constructor raises its errors.
        decode: converts token ids to text.
        max_running: maximum number of generations inside the pipeline.
        max_waiting: maximum number of generations in the queue; more are rejected.
        on_load: called with the load when it changes, at most every `REPORT_S` seconds.
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
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self.rate = Rate()
        """Tokens per second, from which waits are predicted."""
        self._finished = 1
        self._used_share = 1.0
        """Average length of answers, as a share of their `max_tokens`."""
        self._reviewed = 0.0
        self._closed: str | None = None
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cache_usage = 0.0
        self._outbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._step_forever, name="engine", daemon=True),
            threading.Thread(target=self._deliver_forever, name="delivery", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, ids: Sequence[int], sampling: SamplingParams, listener: Listener, *, streaming: bool, timeout_s: float
    ) -> Job:
        """Queues a prompt. The listener gets its updates; without `streaming`, only the last one.

        Raises:
            OverloadedError: the engine has stopped.
            BusyError: the queue is full, or so long that the answer would not be complete after `timeout_s` seconds.
        """
        job = Job(ids, sampling, listener, streaming, TextAssembler(self._decode, sampling.stop), timeout_s)
        with self._changed:
            if self._closed is not None:
                raise OverloadedError(self._closed)
            forecast = self._forecast()
            if len(self._waiting) + len(self._running) >= self._max_running + self._max_waiting:
                raise BusyError(
                    f"{self._max_running} generations are running and {self._max_waiting} are waiting, which is the "
                    "limit.",
                    forecast.start_s(),
                )
            job.turn = job.arrival + forecast.end_s(job.tokens_left(self._used_share)) - forecast.start_s()
            at = bisect.bisect(self._waiting, job.turn, key=lambda waiting: waiting.turn)
            for ahead in self._waiting[:at]:
                forecast.add(ahead.tokens_left(self._used_share))
            late_s = forecast.end_s(job.tokens_left(self._used_share)) - timeout_s * ADMITTED_SHARE
            if late_s > 0 and (self._running or self._waiting):
                raise BusyError("Too many generations are waiting for the deadline of this one.", late_s)
            self._waiting.insert(at, job)
            self._changed.notify()
        return job

    def _forecast(self) -> Forecast:
        running = [job.tokens_left(self._used_share) for job in self._running]
        return Forecast(running, self._max_running, self.rate.per_s())

    def cancel(self, job: Job) -> None:
        """Makes a job fail soon with `CancelledError`. Does nothing if it has ended."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    def load(self) -> Load:
        """The current load."""
        with self._changed:
            counts = (len(self._waiting), len(self._running))
            return Load(*counts, self._cache_usage, self._prompt_tokens, self._completion_tokens)

    def close(self) -> None:
        """Fails unfinished jobs and waits until both threads have ended."""
        self._reject_new("The server is shutting down.")
        self._threads[0].join()
        self._outbox.put(None)
        self._threads[1].join()

    def _step_forever(self) -> None:
        try:
            while not self._step_until_broken():
                self._pipeline.close()
                self._pipeline = self._make_pipeline()
        except Exception:
            logger.exception("The engine could not be loaded again.")
        self._reject_new("The engine has stopped after an internal error. Restart the server.")
        self._fail_all(self._closed or "", self._running, self._waiting)
        self._pipeline.close()

    def _step_until_broken(self) -> bool:
        """False if the pipeline failed and a new one may work; True if the engine is closed or cannot recover."""
        self._proven = False
        try:
            while self._wait_for_work():
                self._drop_cancelled()
                self._drop_late()
                self._start_waiting()
                begin, before = time.monotonic(), self._processed()
                if self._pipeline.busy():
                    self._pipeline.step()
                loaded = len(self._running) >= self._max_running * LOADED_SHARE
                self._collect()
                self.rate.add(self._processed() - before, time.monotonic() - begin, loaded=loaded)
                self._cache_usage = self._pipeline.cache_usage() if self._pipeline.busy() else 0.0
        except Exception:
            logger.exception("The engine failed while it ran %d generations.", len(self._running))
            self._fail_all("The engine failed while it generated this answer. Try again.", self._running)
            return not self._proven
        return True

    def _fail_all(self, reason: str, *jobs: list[Job]) -> None:
        with self._changed:
            failed = [job for some in jobs for job in some]
            for some in jobs:
                some.clear()
        for job in failed:
            self._queue_outcome(job, OverloadedError(reason))

    def _reject_new(self, reason: str) -> None:
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
            self._waiting = [job for job in self._waiting if not job.cancelled]
        for job in dropped:
            if job.generation is not None:
                job.generation.cancel()
            self._queue_outcome(job, CancelledError("Request cancelled by client"))

    def _drop_late(self) -> None:
        """Rejects the waiting jobs that are expected to miss their deadline: the rate was unknown, or has fallen."""
        now = time.monotonic()
        if now < self._reviewed + REVIEW_S:
            return
        self._reviewed = now
        late: list[tuple[Job, float]] = []
        with self._changed:
            forecast = self._forecast()
            for job in self._waiting:
                tokens = job.tokens_left(self._used_share)
                late_s = forecast.end_s(tokens) - (job.arrival + job.timeout_s - now)
                if late_s > 0 and self._running:
                    late.append((job, late_s))
                else:
                    forecast.add(tokens)
            for job, _ in late:
                self._waiting.remove(job)
        for job, late_s in late:
            self._queue_outcome(job, BusyError("Too many generations are ahead of this one for its deadline.", late_s))

    def _start_waiting(self) -> None:
        limit = self._max_running if self.rate.per_s() else min(self._max_running, UNMEASURED_RUNNING)
        while len(self._running) < limit:
            with self._changed:
                if not self._waiting:
                    return
                job = self._waiting.pop(0)
            try:
                job.generation = self._pipeline.start(job.ids, job.sampling)
            except Exception:
                logger.exception("A prompt of %d tokens could not be started.", len(job.ids))
                self._queue_outcome(job, GenerationError("The engine could not start this prompt."))
                continue
            job.timings.first_scheduled = time.monotonic_ns()
            with self._changed:
                self._running.append(job)

    def _processed(self) -> int:
        return self._prompt_tokens + self._completion_tokens

    def _collect(self) -> None:
        ended = [job for job in self._running if self._advance(job)]
        if ended:
            with self._changed:
                self._running = [job for job in self._running if job not in ended]

    def _advance(self, job: Job) -> bool:
        """Queues the new text of a job for its listener. Returns whether the job has ended."""
        generation = job.generation
        assert generation is not None, "a running job has been started"  # noqa: S101
        try:
            output = generation.read()
        except GenerationError as error:
            self._queue_outcome(job, error)
            return True
        if output is None:
            return False
        now = time.monotonic_ns()
        if not job.timings.first_token:
            job.timings.first_token = now
            self._prompt_tokens += len(job.ids)
        job.timings.last_token = now
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
        if finish_reason is not None:
            self._proven = True
            self._finished += 1
            used_share = job.completion_tokens / job.sampling.max_tokens
            self._used_share += (used_share - self._used_share) * max(1 / self._finished, _USED_SHARE_WEIGHT)
        if finish_reason is not None or (job.streaming and len(job.text.visible) > shown):
            update = Update(
                job.text.visible,
                finish_reason,
                job.text.stopped_by,
                job.log_prob,
                len(job.ids),
                job.completion_tokens,
                job.timings,
            )
            self._queue_outcome(job, update)
        return finish_reason is not None

    def _queue_outcome(self, job: Job, outcome: Update | GenerationError) -> None:
        """Queues an update or the failure of a job for its listener."""
        with self._changed:
            if job.ended:
                return
            job.ended = isinstance(outcome, GenerationError) or outcome.finish_reason is not None
            queued, job.undelivered = job.undelivered is not None, outcome
        if not queued:
            self._outbox.put(job)

    def _deliver(self, job: Job) -> None:
        with self._changed:
            outcome, job.undelivered = job.undelivered, None
        if isinstance(outcome, GenerationError):
            job.listener.fail(outcome)
        elif outcome is not None and outcome.finish_reason is None and (job.cancelled or job.listener.gone()):
            # Triton noticed it when it wrote the previous update.
            self.cancel(job)
        elif outcome is not None:
            job.listener.update(outcome)

    def _deliver_forever(self) -> None:
        polled, reported, load = time.monotonic(), time.monotonic(), None
        while True:
            try:
                job = self._outbox.get(timeout=REPORT_S)
            except queue.Empty:
                pass
            else:
                if job is None:
                    return
                self._attempt(functools.partial(self._deliver, job))
            now = time.monotonic()
            if now >= polled + POLL_S:
                self._cancel_abandoned()
                polled = now
            if now >= reported + REPORT_S:
                reported, known, load = now, load, self.load()
                if load != known:
                    self._attempt(functools.partial(self._on_load, load))

    def _cancel_abandoned(self) -> None:
        """Cancels the jobs whose clients have disconnected."""
        with self._changed:
            jobs = [job for job in (*self._running, *self._waiting) if not (job.cancelled or job.ended)]
        for job in jobs:
            self._attempt(functools.partial(self._cancel_if_gone, job))

    def _cancel_if_gone(self, job: Job) -> None:
        if job.listener.gone():
            self.cancel(job)

    @staticmethod
    def _attempt(call: Callable[[], None]) -> None:
        """Calls a listener. Its failure must not affect the others."""
        try:
            call()
        except Exception:
            logger.exception("A listener failed.")
