"""Queueing, cancelling and dying of the batch engine, over a pipeline that computes nothing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from predictor.engines.batch import BatchEngine, Load, Output, SamplingParams, Update
from predictor.errors import BusyError, CancelledError, GenerationError, OverloadedError
from tests.processes import until

GREEDY = SamplingParams(max_tokens=5, greedy=True)
ENDLESS = SamplingParams(max_tokens=10**9, greedy=True)
POISON = 666
PATIENT_S = 1e12


@dataclass(eq=False)
class Countdown:
    """A generation that gives one token per step."""

    left: int
    ready: bool = False
    cancelled: bool = False

    def read(self) -> Output | None:
        if not self.ready:
            return None
        self.ready = False
        return Output([65 + self.left % 26], -0.5, "length" if self.left == 0 else None)

    def cancel(self) -> None:
        self.cancelled = True


@dataclass(eq=False)
class CountingPipeline:
    """Steps only while `gate` is open. A poisoned prompt breaks it."""

    gate: threading.Event
    live: list[Countdown] = field(default_factory=list)
    most: int = 0
    poisoned: bool = False
    kind: type[Countdown] = Countdown

    def start(self, ids: Sequence[int], sampling: SamplingParams) -> Countdown:
        if not ids:
            raise ValueError("no prompt")
        self.poisoned = self.poisoned or POISON in ids
        self.live.append(self.kind(sampling.max_tokens))
        return self.live[-1]

    def step(self) -> None:
        assert self.gate.wait(10)
        if self.poisoned:
            raise RuntimeError("poisoned")
        self.live = [each for each in self.live if each.left > 0 and not each.cancelled]
        self.most = max(self.most, len(self.live))
        for each in self.live:
            each.left -= 1
            each.ready = True

    def busy(self) -> bool:
        return any(each.left > 0 for each in self.live)

    def cache_usage(self) -> float:
        return len(self.live) / 10

    def close(self) -> None:
        self.live = []


class Caller:
    """Keeps its updates."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.left = False
        self._end: queue.SimpleQueue[Update | GenerationError] = queue.SimpleQueue()

    def update(self, update: Update) -> None:
        self.updates.append(update)
        if update.finish_reason is not None:
            self._end.put(update)

    def fail(self, error: GenerationError) -> None:
        self._end.put(error)

    def gone(self) -> bool:
        return self.left

    def end(self) -> Update | GenerationError:
        return self._end.get(timeout=10)


class Bench:
    """An engine with its pipelines and reported loads."""

    def __init__(self, max_running: int = 2, max_waiting: int = 3) -> None:
        self.gate = threading.Event()
        self.pipelines: list[CountingPipeline] = []
        self.loads: list[Load] = []
        self.loadable = True
        self.engine = BatchEngine(
            self.make,
            lambda ids: "".join(map(chr, ids)),
            max_running=max_running,
            max_waiting=max_waiting,
            on_load=self.loads.append,
        )

    def make(self) -> CountingPipeline:
        if not self.loadable:
            raise RuntimeError("the weights have gone")
        self.pipelines.append(CountingPipeline(self.gate))
        return self.pipelines[-1]

    def ask(self, ids: Sequence[int] = (1, 2), sampling: SamplingParams = GREEDY, *, streaming: bool = True) -> Caller:
        caller = Caller()
        self.engine.submit(ids, sampling, caller, streaming=streaming, timeout_s=PATIENT_S)
        return caller


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.gate.set()
    bench.engine.close()


def text_of(end: Update | GenerationError) -> str:
    assert isinstance(end, Update)
    return end.text


def test_the_last_update_has_all_fields(bench: Bench) -> None:
    caller = bench.ask()
    bench.gate.set()
    end = caller.end()
    assert isinstance(end, Update)
    assert end.text == "EDCBA"
    assert all(end.text.startswith(update.text) for update in caller.updates)
    assert (end.finish_reason, end.prompt_tokens, end.completion_tokens, end.log_prob) == ("length", 2, 5, -2.5)
    assert 0 < end.timings.arrival <= end.timings.first_scheduled <= end.timings.first_token <= end.timings.last_token


def test_without_streaming_there_is_one_update(bench: Bench) -> None:
    caller = bench.ask(streaming=False)
    bench.gate.set()
    assert text_of(caller.end()) == "EDCBA"
    assert len(caller.updates) == 1


def test_a_stop_string_ends_and_frees_the_generation(bench: Bench) -> None:
    bench.gate.set()
    end = bench.ask(sampling=SamplingParams(max_tokens=50, greedy=True, stop=("TSR",))).end()
    assert isinstance(end, Update)
    assert (end.text, end.finish_reason, end.stop_reason) == ("XWVU", "stop", "TSR")
    assert text_of(bench.ask().end()) == "EDCBA"
    assert bench.pipelines[0].most == 1


def test_running_and_waiting_are_limited(bench: Bench) -> None:
    callers = [bench.ask() for _ in range(5)]
    with pytest.raises(BusyError, match="3 are waiting, which is the limit"):
        bench.ask()
    bench.gate.set()
    assert [text_of(caller.end()) for caller in callers] == ["EDCBA"] * 5
    assert bench.pipelines[0].most == 2


def test_a_gone_caller_frees_its_place(bench: Bench) -> None:
    leaving = bench.ask(sampling=ENDLESS, streaming=False)
    waiting = [bench.ask() for _ in range(2)]
    bench.gate.set()
    assert all(text_of(caller.end()) == "EDCBA" for caller in waiting)
    leaving.left = True
    assert isinstance(leaving.end(), CancelledError)


def test_a_gone_caller_gets_no_more_updates(bench: Bench) -> None:
    leaving = bench.ask(sampling=ENDLESS)
    leaving.left = True
    bench.gate.set()
    assert isinstance(leaving.end(), CancelledError)
    assert not leaving.updates


def one_running(rate: tuple[int, float] | None) -> Bench:
    """An engine that computes a step of its only generation until the gate opens."""
    bench = Bench(max_running=1)
    bench.ask(sampling=ENDLESS)
    until(lambda: bench.engine.load().running == 1)
    if rate is not None:
        bench.engine.rate.add(*rate, loaded=True)
    return bench


def test_a_request_that_would_miss_its_deadline_is_refused_at_once() -> None:
    bench = one_running((1, 10.0))
    with pytest.raises(BusyError, match=r"Try again in \d+ s\."):
        bench.engine.submit([1], GREEDY, Caller(), streaming=True, timeout_s=60)
    assert bench.engine.load().waiting == 0
    bench.gate.set()
    bench.engine.close()


def test_waiting_requests_are_refused_once_the_rate_is_known() -> None:
    bench = one_running(None)
    caller = Caller()
    bench.engine.submit([1], GREEDY, caller, streaming=True, timeout_s=60)
    bench.gate.set()
    assert isinstance(caller.end(), BusyError)
    bench.engine.close()


def test_short_answers_overtake_long_ones() -> None:
    bench = Bench(max_running=1)
    first = bench.ask()
    until(lambda: bench.engine.load().running == 1)
    bench.engine.rate.add(1, 1000.0, loaded=True)  # a step takes so long that the pauses of this machine do not matter
    long = bench.ask(sampling=SamplingParams(max_tokens=500, greedy=True))
    short = bench.ask()
    bench.gate.set()
    ends = [caller.end() for caller in (first, short, long)]
    started = [end.timings.first_scheduled for end in ends if isinstance(end, Update)]
    assert len(started) == 3
    assert started == sorted(started)
    bench.engine.close()


def test_a_finished_caller_is_not_polled_again() -> None:
    """It leaves its place a little later: when the others of the same step have been read."""
    bench = Bench()
    polled = threading.Event()

    class First(Caller):
        asked_late = False

        def gone(self) -> bool:
            self.asked_late |= any(update.finish_reason for update in self.updates)
            return False

    class Second(Caller):
        def gone(self) -> bool:
            if any(update.finish_reason for update in first.updates):
                polled.set()
            return False

    class Held(Countdown):
        """Once the first is finished, reads the second only after its caller was polled."""

        def read(self) -> Output | None:
            if bench.pipelines[0].live[0] is not self and not bench.pipelines[0].live[0].left:
                assert polled.wait(10)
            return super().read()

    bench.pipelines[0].kind = Held
    first, second = First(), Second()
    bench.engine.submit([1], GREEDY, first, streaming=True, timeout_s=PATIENT_S)
    bench.engine.submit([1], GREEDY, second, streaming=True, timeout_s=PATIENT_S)
    bench.gate.set()
    second.end()
    bench.engine.close()
    assert not first.asked_late


def test_a_waiting_job_can_be_cancelled(bench: Bench) -> None:
    running = [bench.ask(sampling=ENDLESS, streaming=False) for _ in range(2)]
    caller = Caller()
    job = bench.engine.submit([1], GREEDY, caller, streaming=True, timeout_s=PATIENT_S)
    bench.engine.cancel(job)
    bench.gate.set()
    assert isinstance(caller.end(), CancelledError)
    for each in running:
        each.left = True
        assert isinstance(each.end(), CancelledError)


def test_a_job_cancelled_after_its_end_gets_its_result(bench: Bench) -> None:
    slow, go_on = threading.Event(), threading.Event()

    class Slow(Caller):
        def update(self, update: Update) -> None:
            slow.set()
            assert go_on.wait(10)

    bench.engine.submit([1], ENDLESS, Slow(), streaming=True, timeout_s=PATIENT_S)
    caller = Caller()
    job = bench.engine.submit([1], GREEDY, caller, streaming=False, timeout_s=PATIENT_S)
    bench.gate.set()
    assert slow.wait(10)
    until(lambda: bench.engine.load().running == 1)
    bench.engine.cancel(job)
    go_on.set()
    assert text_of(caller.end()) == "EDCBA"


def test_a_prompt_that_cannot_start_fails_alone(bench: Bench) -> None:
    good, bad, after = bench.ask(), bench.ask([]), bench.ask()
    bench.gate.set()
    assert type(bad.end()) is GenerationError
    assert text_of(good.end()) == text_of(after.end()) == "EDCBA"


def test_a_broken_pipeline_is_replaced_and_waiting_prompts_survive() -> None:
    bench = Bench(max_running=1)
    bench.gate.set()
    assert text_of(bench.ask().end()) == "EDCBA"
    poison, after = bench.ask([POISON]), bench.ask()
    broken = poison.end()
    assert isinstance(broken, OverloadedError)
    assert "poisoned" not in str(broken)
    assert text_of(after.end()) == "EDCBA"
    assert len(bench.pipelines) == 2
    bench.engine.close()


def test_an_engine_that_breaks_twice_stops() -> None:
    bench = Bench(max_running=1, max_waiting=9)
    callers = [bench.ask([POISON]) for _ in range(4)]
    bench.gate.set()
    assert all(isinstance(caller.end(), OverloadedError) for caller in callers)
    with pytest.raises(OverloadedError, match="Restart the server"):
        bench.ask()
    bench.engine.close()


def test_an_engine_that_cannot_be_reloaded_fails_all_callers() -> None:
    bench = Bench(max_running=1)
    bench.gate.set()
    assert text_of(bench.ask().end()) == "EDCBA"
    bench.loadable = False
    bench.gate.clear()  # it goes on when both are there: an engine that has stopped takes none
    callers = [bench.ask([POISON]), bench.ask()]
    bench.gate.set()
    assert all(isinstance(caller.end(), OverloadedError) for caller in callers)
    bench.engine.close()


def test_closing_ends_running_and_waiting_jobs() -> None:
    bench = Bench()
    bench.gate.set()
    callers = [bench.ask(sampling=ENDLESS, streaming=False) for _ in range(4)]
    bench.engine.close()
    assert all(isinstance(caller.end(), OverloadedError) for caller in callers)
    with pytest.raises(OverloadedError, match="shutting down"):
        bench.ask()


def test_a_failing_caller_fails_alone(bench: Bench) -> None:
    class Broken(Caller):
        def update(self, update: Update) -> None:
            raise OSError("connection lost")

        def gone(self) -> bool:
            raise OSError("connection lost")

    bench.engine.submit([1], GREEDY, Broken(), streaming=True, timeout_s=PATIENT_S)
    bench.gate.set()
    assert text_of(bench.ask().end()) == "EDCBA"


def test_load_is_reported(bench: Bench) -> None:
    caller = bench.ask()
    bench.gate.set()
    caller.end()
    load = bench.engine.load()
    assert (load.waiting, load.prompt_tokens, load.completion_tokens) == (0, 2, 5)
    # The tokens of the last step may be reported before the step ends.
    until(lambda: bool(bench.loads) and (bench.loads[-1].completion_tokens, bench.loads[-1].running) == (5, 0))
