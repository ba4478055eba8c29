"""Checks and evaluates metadata filters in Chroma's `where` language.

Source: https://docs.trychroma.com/docs/querying-collections/metadata-filtering
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from vectorstore.errors import InvalidFilterError

FieldValue = str | int | float | bool
"""Value of a metadata field."""

Where = dict[str, Any]
"""A filter that `check` returned."""

MAX_CONDITIONS = 100
MAX_DEPTH = 8
MAX_INT = 2**63 - 1

_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda have, want: bool(have > want),
    "$gte": lambda have, want: bool(have >= want),
    "$lt": lambda have, want: bool(have < want),
    "$lte": lambda have, want: bool(have <= want),
}
_EQUAL = ("$eq", "$ne")
_LISTED = ("$in", "$nin")
_LOGICAL = ("$and", "$or")


def check(where: Any, known: Collection[str] | None, path: str = "filters") -> Where | None:
    """Normalises a filter for stores: one field or logical operator per level, one operator per field.

    Args:
        where: the filter from the client. An empty filter becomes None, which matches everything.
        known: metadata fields of the index; None: any field.
        path: path of the filter in the request, for messages.

    Raises:
        InvalidFilterError: an unknown operator or field, or a value that the operator does not accept. Its `field` is
            the path of the offending part, such as `filters.$and[1].year`.
    """
    if where is None or where == {}:
        return None
    budget = [MAX_CONDITIONS]
    return _check(where, known, path, 1, budget)


def matches(where: Where | None, metadata: Mapping[str, FieldValue]) -> bool:
    """Whether metadata matches a checked filter.

    Values are compared only with values of the same kind: text, number or truth value. A field that is missing or of
    another kind matches `$ne` and `$nin`, but no other operator. Chroma does the same.
    """
    if where is None:
        return True
    (name, condition), *_ = where.items()
    if name == "$and":
        return all(matches(part, metadata) for part in condition)
    if name == "$or":
        return any(matches(part, metadata) for part in condition)
    (operator, want), *_ = condition.items()
    have = metadata.get(name)
    if operator == "$eq":
        return _same(have, want)
    if operator == "$ne":
        return not _same(have, want)
    if operator == "$in":
        return any(_same(have, value) for value in want)
    if operator == "$nin":
        return not any(_same(have, value) for value in want)
    return _kind(have) == "number" and _ORDERED[operator](have, want)


def _check(where: Any, known: Collection[str] | None, path: str, depth: int, budget: list[int]) -> Where:
    if not isinstance(where, dict):
        raise InvalidFilterError(f"{path} is {_show(where)}: send an object such as {_EXAMPLE}.", field=path)
    if not where:
        raise InvalidFilterError(f"{path} is empty: leave it out, or send {_EXAMPLE}.", field=path)
    if depth > MAX_DEPTH:
        raise InvalidFilterError(f"{path} is nested deeper than {MAX_DEPTH} levels: flatten the filter.", field=path)
    budget[0] -= len(where)
    if budget[0] < 0:
        raise InvalidFilterError(f"The filter has more than {MAX_CONDITIONS} conditions: send fewer.", field="filters")
    parts = [_check_part(name, value, known, path, depth, budget) for name, value in where.items()]
    return parts[0] if len(parts) == 1 else {"$and": parts}


def _check_part(
    name: str, value: Any, known: Collection[str] | None, path: str, depth: int, budget: list[int]
) -> Where:
    here = f"{path}.{name}"
    if name in _LOGICAL:
        if not isinstance(value, list) or not value:
            raise InvalidFilterError(f"{here} is {_show(value)}: send a list of filters.", field=here)
        parts = [_check(part, known, f"{here}[{i}]", depth + 1, budget) for i, part in enumerate(value)]
        # Chroma requires at least two parts.
        return parts[0] if len(parts) == 1 else {name: parts}
    if name.startswith("$"):
        raise InvalidFilterError(
            f"{here}: {name[:40]!r} is not a logical operator; use {' or '.join(_LOGICAL)}, or name a field.",
            field=here,
        )
    if known is not None and name not in known:
        fields = ", ".join(sorted(known)) or "none"
        raise InvalidFilterError(
            f"{path} names {name[:80]!r}, which no document of this index has. Known fields: {fields}.", field=here
        )
    conditions = value if isinstance(value, dict) else {"$eq": value}
    if not conditions:
        raise InvalidFilterError(f"{here} is empty: send a value, or an operator such as {{'$in': [...]}}.", field=here)
    budget[0] -= len(conditions) - 1
    parts = [
        {name: {operator: _check_value(operator, operand, f"{here}.{operator}", budget)}}
        for operator, operand in conditions.items()
    ]
    return parts[0] if len(parts) == 1 else {"$and": parts}


def _check_value(operator: str, value: Any, path: str, budget: list[int]) -> Any:
    if operator in _LISTED:
        if not isinstance(value, list) or not value:
            raise InvalidFilterError(f"{path} is {_show(value)}: send a list of at least one value.", field=path)
        budget[0] -= len(value) - 1
        if budget[0] < 0:
            raise InvalidFilterError(f"The filter has more than {MAX_CONDITIONS} values: send fewer.", field="filters")
        kinds = {_check_scalar(item, path) for item in value}
        if len(kinds) > 1:
            mixed = " and ".join(sorted(kinds))
            raise InvalidFilterError(f"{path} mixes {mixed}: send values of the same kind.", field=path)
        return value
    if operator in _ORDERED:
        if _kind(value) != "number" or _check_scalar(value, path) != "number":
            raise InvalidFilterError(f"{path} is {_show(value)}: {operator} compares numbers; send one.", field=path)
        return value
    if operator in _EQUAL:
        _check_scalar(value, path)
        return value
    known = ", ".join([*_EQUAL, *_ORDERED, *_LISTED])
    raise InvalidFilterError(f"{path}: {operator[:40]!r} is not an operator; use one of {known}.", field=path)


def _check_scalar(value: Any, path: str) -> str:
    kind = _kind(value)
    if kind is None:
        raise InvalidFilterError(f"{path} is {_show(value)}: compare with a text, a number, true or false.", field=path)
    if kind == "number" and not (math.isfinite(value) and abs(value) <= MAX_INT):
        raise InvalidFilterError(f"{path} is {_show(value)}: send a finite number of at most 64 bits.", field=path)
    return kind


def _kind(value: Any) -> str | None:
    if isinstance(value, bool):
        return "truth value"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else None


def _same(have: Any, want: Any) -> bool:
    return bool(have == want) and _kind(have) == _kind(want)


def _show(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} nested too deep to show"
    return text if len(text) <= 60 else text[:57] + "..."


_EXAMPLE = '{"lang": "en"}'
