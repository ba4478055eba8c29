"""Turns pydantic's errors into messages for clients: the field, the value, and what is expected."""

from __future__ import annotations

import difflib
import functools
from typing import Any

from pydantic import BaseModel, BeforeValidator, ValidationError

from chassis.errors import InvalidRequestError


def _integral(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(_integral)
"""100.0 is a whole number, as in JSON Schema: number fields of web forms send floats."""

_MESSAGES = {
    "missing": "missing, but required",
    "extra_forbidden": "unknown field: remove it, or see /openapi.json for the fields",
    "too_short": "send {min_length} or more",
    "too_long": "{actual_length} of them: send at most {max_length} at a time",
    "string_too_short": "empty: send a text",
    "string_too_long": "too long: send at most {max_length} characters",
    "string_unicode": "not valid Unicode text",
    "greater_than": "send more than {gt}",
    "greater_than_equal": "send {ge} or more",
    "less_than": "send less than {lt}",
    "less_than_equal": "send {le} or less",
    "finite_number": "send a finite number",
    "string_type": "send a text",
    "int_type": "send a whole number",
    "int_from_float": "send a whole number",
    "float_type": "send a number",
    "bool_type": "send true or false",
    "list_type": "send a list",
    "dict_type": "send an object",
    "model_type": "send an object",
    "model_attributes_type": "send an object",
    "literal_error": "send {expected}",
}
"""Type of error → what to send instead. Other types keep pydantic's message."""


def invalid_request(error: ValidationError, kind: type[BaseModel]) -> InvalidRequestError:
    """The first error in a request of this type, and the number of others."""
    problems = error.errors(include_url=False)
    first = problems[0]
    field = _path(first["loc"])
    message = _MESSAGES.get(first["type"], "").format(**first.get("ctx", {})) or first["msg"]
    if first["type"] == "extra_forbidden":
        meant = difflib.get_close_matches(str(first["loc"][-1]), _names(kind), n=1, cutoff=0.75)
        message = f"unknown field: did you mean {meant[0]}?" if meant else message
    more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
    where = field or "The body"
    end = "" if message.endswith("?") else "."
    return InvalidRequestError(f"{where}: {message}{_sent(first)}{end}{more}", field=field or None)


@functools.cache
def _names(kind: type[BaseModel]) -> tuple[str, ...]:
    """Names of all fields of this type, at any depth."""
    schema = kind.model_json_schema()
    objects = [schema, *schema.get("$defs", {}).values()]
    return tuple({name: None for part in objects for name in part.get("properties", {})})


def _path(location: tuple[int | str, ...]) -> str:
    """The field, such as `instances[0].num_docs`, without pydantic's names of union members and validators."""
    named = [part for part in location if isinstance(part, int) or part.isidentifier()]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in named).removeprefix(".")


def _sent(problem: Any) -> str:
    """The offending value, if it is short."""
    value = problem["input"]
    if problem["type"] in ("missing", "extra_forbidden", "string_too_short"):
        return ""
    if value is None or isinstance(value, (str, int, float)):
        shown = repr(value)
        return f" (got {shown})" if len(shown) <= 60 else ""
    return f" (got {'a list' if isinstance(value, list) else 'an object'})" if problem["type"].endswith("_type") else ""
