"""Errors of the transformer, in addition to `chassis.errors`."""

from __future__ import annotations

from chassis.errors import InvalidRequestError


class PromptTooLongError(InvalidRequestError):
    """The question and `max_tokens`, or the question and one passage, do not fit the model's window. 400; no retry."""
