"""The calibrated refusal threshold of an index version: stored by the vectorstore, applied by the transformer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import orjson

from transformer.answerability import SIGNALS, Model

_FORMAT = 1


class CalibrationError(ValueError):
    """The questions do not allow a calibration, or the data is not a valid calibration."""


Error = Literal["answerable_refused", "unanswerable_answered", "risk"]
"""The error rate that a calibration bounds.

`answerable_refused`: the share of answerable questions that are refused.
`unanswerable_answered`: the share of unanswerable questions that are answered.
`risk`: the share of answered questions that are unanswerable. It depends on how many of the users' questions are
answerable, so the calibration needs the same mix.
"""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold and how it was found. Questions that score below `threshold` are refused.

    The error rate holds on average for similar questions to the same index version. New documents or another embedder
    need a new calibration.
    """

    method: str
    """`Model.name`."""
    model: Model
    threshold: float
    error: Error
    rate: float
    """Requested bound of the error rate, 0 … 1."""
    observed: float
    """Error rate on the calibration's own questions."""
    interval: tuple[float, float]
    """95 % confidence interval of `observed`, if the questions are independent."""
    answerable: int
    """Number of answerable questions in the calibration."""
    unanswerable: int
    answerable_answered: float
    """Share of answerable questions that are answered at the threshold."""
    unanswerable_refused: float
    dataset: str
    dataset_hash: str
    index_version: str
    embedder: str
    """The embedder's fingerprint."""

    def json(self) -> bytes:
        """The calibration as JSON, for `parse`."""
        return orjson.dumps({"format": _FORMAT, **asdict(self)}, option=orjson.OPT_INDENT_2)

    @classmethod
    def parse(cls, data: bytes | str) -> Calibration:
        """The calibration in JSON that `json` wrote.

        Raises:
            CalibrationError: the data is not a calibration, or its format is not supported.
        """
        try:
            values = orjson.loads(data)
            if values.pop("format") != _FORMAT:
                raise CalibrationError("The calibration has another format: calibrate again.")
            model = Model(**values.pop("model"))
            calibration = cls(**{**values, "model": model, "interval": tuple(values["interval"])})
            numbers = (calibration.threshold, calibration.rate, *model.weights.values(), model.bias)
            if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
                raise ValueError("not finite")
        except CalibrationError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CalibrationError("This is not a calibration: calibrate again.") from error
        if calibration.error not in get_args(Error) or set(model.weights) != set(SIGNALS):
            raise CalibrationError("The calibration is for another kind of score: calibrate again.")
        return calibration
