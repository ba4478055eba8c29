"""Expected waits of queued generations, and their deadlines."""

from __future__ import annotations

import pytest

from predictor.engines.llmapi import timeout_s
from predictor.engines.waits import Forecast, Rate
from predictor.errors import BusyError, InvalidInputError


@pytest.mark.parametrize("sent", [0, -1, "60", 1.5, True, []])
def test_an_invalid_timeout_is_refused(sent: object) -> None:
    with pytest.raises(InvalidInputError, match="timeout_ms"):
        timeout_s({"timeout_ms": sent}, 60)


def test_a_request_without_a_timeout_has_the_default() -> None:
    assert timeout_s({}, 60) == 60
    assert timeout_s({"timeout_ms": 1500}, 60) == 1.5


@pytest.mark.parametrize(("late_s", "sent_s"), [(0.0, 1), (0.2, 1), (6.1, 7), (1e9, 60)])
def test_retry_after_is_at_most_a_minute(late_s: float, sent_s: int) -> None:
    assert str(BusyError("Full.", late_s)) == f"Full. Try again in {sent_s} s."


def measured(tokens: int, seconds: float) -> Rate:
    rate = Rate()
    rate.add(tokens, seconds, loaded=True)
    return rate


def test_the_rate_is_unknown_until_it_is_measured() -> None:
    assert Rate().per_s() is None
    assert measured(100, 0.5).per_s() is None
    assert measured(100, 2.0).per_s() == 50


def test_recent_steps_count_most() -> None:
    rate = measured(1000, 10.0)
    for _ in range(60):
        rate.add(50, 1.0, loaded=True)
    assert rate.per_s() == pytest.approx(50, rel=0.01)


def test_one_pause_is_not_taken_for_a_slow_machine() -> None:
    rate = measured(1000, 10.0)
    rate.add(100, 1000.0, loaded=True)
    assert rate.per_s() == pytest.approx(100, rel=0.35)


def test_steps_of_few_generations_count_only_if_they_are_faster() -> None:
    rate = measured(1000, 10.0)
    rate.add(10, 1.0, loaded=False)
    assert rate.per_s() == 100
    rate.add(1000, 1.0, loaded=False)
    assert (rate.per_s() or 0) > 100
    unknown = Rate()
    unknown.add(1000, 10.0, loaded=False)
    assert unknown.per_s() is None


def test_a_free_place_is_taken_at_once_and_shares_the_rate() -> None:
    forecast = Forecast([100.0], places=2, rate=10)
    assert forecast.start_s() == 0
    assert forecast.end_s(50) == 10  # two share ten tokens per second


def test_the_next_starts_when_the_first_of_those_ahead_ends() -> None:
    forecast = Forecast([100.0, 40.0], places=2, rate=10)
    assert forecast.start_s() == 8
    assert forecast.end_s(10) == 10
    forecast.add(10)
    assert forecast.start_s() == 10
    forecast.add(100)
    assert forecast.start_s() == 20


def test_an_unknown_rate_predicts_no_wait() -> None:
    forecast = Forecast([1e9], places=1, rate=None)
    assert forecast.start_s() == forecast.end_s(1e9) == 0
