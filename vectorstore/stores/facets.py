"""Digests of metadata, for stores whose own filters depend on names, types or missing fields."""

from __future__ import annotations

import hashlib

from vectorstore.stores.filters import FieldValue


def facet(name: str, value: FieldValue) -> str:
    """Digest of a field and its value; 1 and 1.0 are equal, 1 and true are not."""
    return digest(name, int(value) if isinstance(value, float) and value.is_integer() else value)


def digest(*parts: FieldValue) -> str:
    """32 hexadecimal digits."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
