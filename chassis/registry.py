"""Finds implementations by entry points: one group per Protocol, one name per implementation."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

MemberT = TypeVar("MemberT")


class RegistryError(ValueError):
    """No entry point has this name, or the member cannot be imported. The message is written for users."""


class Registry(Generic[MemberT]):
    """The members of one entry-point group. A member is imported when it is first requested.

    The entry point's name is the name in settings and manifests, its object is the member, and its extra is the extra
    that installs the member's libraries: `milvus = "vectorstore.stores.milvus:STORE [milvus]"`.

    Source: https://packaging.python.org/specifications/entry-points/
    """

    def __init__(self, group: str, noun: str) -> None:
        """`group` is the name of the entry-point group, `noun` the word for a member in messages."""
        self._group = group
        self._noun = noun
        self._members: dict[str, MemberT] = {}

    @functools.cached_property
    def _found(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self._group)}

    def names(self) -> list[str]:
        """Names of all members, sorted."""
        return sorted(self._found)

    def check(self, name: str) -> str:
        """Returns the name. Raises RegistryError if no member has it. For validators of settings."""
        if name not in self._found:
            known = f"choose one of {', '.join(self.names())}" if self._found else "none is installed"
            raise RegistryError(f"there is no {self._noun} {name[:80]!r}: {known}")
        return name

    def get(self, name: str) -> MemberT:
        """The member of this name. Raises RegistryError if it does not exist or its libraries are missing."""
        if name not in self._members:
            point = self._found[self.check(name)]
            try:
                self._members[name] = point.load()
            except ModuleNotFoundError as error:
                extra = f": pip install 'kserve-rag[{','.join(point.extras)}]'" if point.extras else ""
                raise RegistryError(
                    f"the {self._noun} {name!r} needs the package {error.name}, which is not installed{extra}"
                ) from error
        return self._members[name]
