"""Who may read the documents of an index: rules by path, in `access.json` next to the index's versions.

Rules are not part of a version, so a change holds from the next request on, for all versions, without a new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from chassis.principal import Principal
from vectorstore.errors import DamagedAccessError, InvalidAccessError

ANYONE = "anyone"
SIGNED_IN = "signed-in"

ACCESS_FILE = "access.json"
_ENTRY = re.compile(rf"{ANYONE}|{SIGNED_IN}|(user|group):\S(.*\S)?")


def _entry(entry: str) -> str:
    if not _ENTRY.fullmatch(entry):
        raise ValueError(f"{entry[:80]!r} is none of user:NAME, group:NAME, {SIGNED_IN} and {ANYONE}")
    return entry


def _path(path: str) -> str:
    if path and not {"", ".", ".."}.isdisjoint(path.removesuffix("/").split("/")):
        raise ValueError(f"{path[:80]!r} is no path in the index: use FILE, FOLDER/ or, for everything, an empty path")
    return path


Entry = Annotated[str, AfterValidator(_entry)]
"""`user:NAME`, `group:NAME`, `signed-in` (every identified caller) or `anyone`."""
Entries = Annotated[frozenset[Entry], Field(strict=False)]
RulePath = Annotated[str, AfterValidator(_path)]
"""A file of the index, a folder with a slash at its end, or an empty path for everything."""


def names_of(principal: Principal | None) -> frozenset[str]:
    """The entries that name this caller; None: an anonymous one."""
    if principal is None:
        return frozenset((ANYONE,))
    groups = (f"group:{group}" for group in principal.groups)
    return frozenset((ANYONE, SIGNED_IN, f"user:{principal.subject}", *groups))


class Acl(BaseModel):
    """Callers that may read, and callers that may not."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, revalidate_instances="always")

    allow: Entries | None = None
    """None: the rule does not say who may read."""
    deny: Entries = frozenset()


Decision = tuple[frozenset[str] | None, frozenset[str]]
"""Entries that may read, None for everybody, and entries that may not. The second prevails."""


def admits(decision: Decision, names: frozenset[str]) -> bool:
    """Whether a caller with these names may read."""
    allow, deny = decision
    return names.isdisjoint(deny) and (allow is None or not names.isdisjoint(allow))


class AccessRules(BaseModel):
    """The rules of an index."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    epoch: int = 0
    """Grows with every change."""
    rules: dict[RulePath, Acl] = Field(default_factory=dict)

    def decision(self, source: str) -> Decision:
        """Who may read a file: the `allow` of the nearest rule that has one, and the `deny` of all.

        Without a rule that allows, everybody may read.
        """
        allow, deny = None, frozenset[str]()
        place = 0
        while True:
            rule = self.rules.get(source[:place])
            if rule is not None:
                allow, deny = rule.allow if rule.allow is not None else allow, deny | rule.deny
            if place == len(source):
                return allow, deny
            place = source.find("/", place) + 1 or len(source)  # the next folder, and at last the file


class AccessFile:
    """The rules of one index on disk."""

    def __init__(self, index: Path) -> None:
        """Does no I/O. `index`: folder of the index."""
        self._index = index
        self._path = index / ACCESS_FILE
        self._read: tuple[tuple[int, ...], AccessRules] = ((), AccessRules())

    def read(self) -> AccessRules:
        """The current rules; none if there is no file. The same object until the file changes.

        Raises:
            DamagedAccessError: the file cannot be read.
        """
        state, rules = self._read
        current = self._state()
        if current != state:
            rules = self._load() if current else AccessRules()
            self._read = current, rules
        return rules

    def is_unchanged(self) -> bool:
        """Whether `read` only has to look at the file's time stamp."""
        return self._state() == self._read[0]

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, Acl]]:
        """Yields the rules, to be changed, and writes them when the block ends. Other writers wait.

        Raises:
            InvalidAccessError: a path or an entry is malformed.
            DamagedAccessError: the file cannot be read.
        """
        self._index.mkdir(parents=True, exist_ok=True)
        with (self._index / ".access.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = self._load() if self._state() else AccessRules()
            rules = dict(before.rules)
            yield rules
            after = parsed({"epoch": before.epoch + 1, "rules": rules})
            if after.rules != before.rules:
                self._write(after)

    def _state(self) -> tuple[int, ...]:
        """Differs after each change; empty if there is no file."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise DamagedAccessError(_DAMAGED) from error
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _load(self) -> AccessRules:
        try:
            return AccessRules.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as error:
            raise DamagedAccessError(_DAMAGED) from error

    def _write(self, rules: AccessRules) -> None:
        temporary = self._index / f".{ACCESS_FILE}-{secrets.token_hex(8)}"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(rules.model_dump_json(indent=1, exclude_defaults=True))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)


def parsed(values: Mapping[str, object]) -> AccessRules:
    """Checked rules. Raises InvalidAccessError."""
    try:
        return AccessRules.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidAccessError(problem["msg"].removeprefix("Value error, ") + ".", field="rules") from error


_DAMAGED = (
    "The rules of who may read this index (access.json) cannot be read, so no document is shown. Correct the file, or "
    "restore it from a backup."
)
