"""What may go wrong in an evaluation. Nothing is written where one of these is raised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_SHOWN = 10


class EvaluationError(Exception):
    """Base of all errors of this package. The message says what to do next."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class DatasetError(EvaluationError):
    """A dataset contradicts itself or cannot be read. A retry never helps: the file has to be mended."""

    def __init__(self, folder: Path, problems: Sequence[str], advice: str = "") -> None:
        listed = "\n".join(f"  {problem}" for problem in problems[:_SHOWN])
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{folder} has {count}:\n{listed}{more}{f'{chr(10)}{advice}' if advice else ''}")
        self.problems = list(problems)


class UnknownDatasetError(EvaluationError):
    """There is no dataset of that name."""


class BaselineError(EvaluationError):
    """Results that were to be compared with cannot be read, or are of other questions."""


class WrongIndexError(EvaluationError):
    """The index that answers is not the one of the dataset: passages come from documents that it does not have."""
