"""Errors of an evaluation. If one is raised, no results are written."""

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
    """A dataset is inconsistent or unreadable. A retry does not help."""

    def __init__(self, folder: Path, problems: Sequence[str], advice: str = "") -> None:
        listed = "\n".join(f"  {problem}" for problem in problems[:_SHOWN])
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{folder} has {count}:\n{listed}{more}{f'{chr(10)}{advice}' if advice else ''}")
        self.problems = list(problems)


class UnknownDatasetError(EvaluationError):
    """There is no dataset with that name."""


class BaselineError(EvaluationError):
    """The baseline cannot be read, or was measured with other questions."""


class WrongIndexError(EvaluationError):
    """The served index was built from other documents than the dataset's."""
