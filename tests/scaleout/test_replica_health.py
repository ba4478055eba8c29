"""Replacement of unready replicas."""

from __future__ import annotations

import pytest

from scaleout.health import Health, UnreadyError


def test_a_replica_is_replaced_when_it_is_unready_for_too_long() -> None:
    health = Health(replaced_after_s=60)
    health.check("The predictor is not ready.", 100)
    health.check("The predictor is not ready.", 159)
    with pytest.raises(UnreadyError, match="cannot be reached"):
        health.check("The predictor cannot be reached.", 160)


def test_readiness_restarts_the_clock() -> None:
    health = Health(replaced_after_s=60)
    health.check("No index.", 0)
    health.check(None, 59)
    health.check("No index.", 61)
    health.check("No index.", 120)
    with pytest.raises(UnreadyError):
        health.check("No index.", 121)


def test_a_limit_of_zero_replaces_at_once() -> None:
    with pytest.raises(UnreadyError):
        Health(replaced_after_s=0).check("No index.", 0)
