"""Filters that Chroma evaluates differently from `filters.matches`."""

from __future__ import annotations

from typing import Any

from vectorstore.errors import UnsupportedFilterError


def check(where: Any) -> None:
    """Raises UnsupportedFilterError if a filter has a fraction, or whole numbers and floats in the same list.

    Chroma 1.5.9 reads 2021.5 as 2021 for rows with whole numbers, and rejects lists of both kinds.
    """
    if isinstance(where, dict):
        for part in where.values():
            check(part)
    elif isinstance(where, list):
        if len({type(part) for part in where} & {int, float}) > 1:
            raise UnsupportedFilterError(f"Chroma does not support whole numbers and floats in the same list: {where}.")
        for part in where:
            check(part)
    elif isinstance(where, float) and not where.is_integer():
        raise UnsupportedFilterError(f"Chroma compares {where} as a whole number.")
