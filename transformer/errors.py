"""What may go wrong in making an answer, beyond what the upstreams report."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from chassis.errors import InvalidRequestError


class PromptTooLongError(InvalidRequestError):
    """The question, the conversation's last turn and `max_tokens` together do not fit the model's window."""


def invalid_request(error: ValidationError) -> InvalidRequestError:
    """The first problem that pydantic found, told with its field, what was sent and what to do."""
    problems = error.errors()
    first = problems[0]
    field = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "constrained-")))
    if first["type"] == "extra_forbidden":
        message = f"{field}: unknown parameter. Remove it, or see the service's /openapi.json for those that exist."
    elif first["type"] == "missing":
        message = f"{field}: is missing. Send it."
    else:
        message = f"{field}: {first['msg']}{_shown(first['input'])}."
    if len(problems) > 1:
        message += f" ({len(problems) - 1} more)"
    return InvalidRequestError(message, field=field)


def _shown(value: Any) -> str:
    if isinstance(value, (bool, int, float)) or value is None or (isinstance(value, str) and len(value) <= 40):
        return f" (got {value!r})"
    return f" (got a {type(value).__name__} of length {len(value)})" if hasattr(value, "__len__") else ""
