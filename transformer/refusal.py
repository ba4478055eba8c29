"""The score and the threshold that decide whether to refuse a question."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from transformer.answerability import DEFAULT_MODEL, DEFAULT_THRESHOLD, Model
from transformer.calibration import Calibration, CalibrationError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RefusalRule:
    """Refuse a question that `model` scores below `threshold`."""

    model: Model
    threshold: float


_DEFAULT = RefusalRule(DEFAULT_MODEL, DEFAULT_THRESHOLD)


class RefusalPolicy:
    """The rule for each question: from the calibration of the index version that was searched, else the default."""

    def __init__(self, *, threshold: float | None) -> None:
        """`threshold` overrides those of all calibrations; None keeps them."""
        self._threshold = threshold

    def rule(self, calibration: Mapping[str, Any] | None) -> RefusalRule:
        """The rule under a `vectorstore.wire.Prediction.calibration`. An unreadable one counts as none."""
        rule = _DEFAULT if calibration is None else _calibrated(orjson.dumps(calibration))
        return rule if self._threshold is None else RefusalRule(rule.model, self._threshold)


@functools.lru_cache(64)
def _calibrated(content: bytes) -> RefusalRule:
    try:
        calibration = Calibration.parse(content)
    except CalibrationError as error:
        logger.warning("using the default refusal threshold: %s", error)
        return _DEFAULT
    return RefusalRule(calibration.model, calibration.threshold)
