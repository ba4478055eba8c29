"""Plans a run: compares the change tokens of all files with those in the current version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Plan:
    """Planned action for each file, by its name in the index."""

    added: tuple[str, ...] = ()
    """Not in the current version. Tuples are in the order of the listing."""
    changed: tuple[str, ...] = ()
    """In the current version, and to be parsed again."""
    unchanged: frozenset[str] = frozenset()
    """Files whose documents are copied from the current version."""
    removed: frozenset[str] = frozenset()
    """In the current version, but no longer listed."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Name → reason for files that cannot be read. If they are in the current version, they are also `unchanged`."""

    @property
    def parsed(self) -> frozenset[str]:
        """Files to parse."""
        return frozenset((*self.added, *self.changed))

    @property
    def dropped(self) -> frozenset[str]:
        """Files whose documents in the current version are not copied."""
        return self.removed.union(self.changed)


def plan(
    tokens: Mapping[str, str],
    skipped: Mapping[str, str],
    current: Mapping[str, str],
    *,
    kept: frozenset[str] = frozenset(),
    parse_all: bool = False,
) -> Plan:
    """Decides what happens to each file.

    Args:
        tokens: name → change token of the readable files, in the order of the listing.
        skipped: name → reason for each unreadable file.
        current: name → change token of the files in the current version.
        kept: files of the current version that were not listed and stay.
        parse_all: parse unchanged files too.
    """
    changed = tuple(name for name, token in tokens.items() if name in current and (parse_all or current[name] != token))
    unchanged = kept.union(name for name in (*tokens, *skipped) if name in current).difference(changed)
    return Plan(
        added=tuple(name for name in tokens if name not in current),
        changed=changed,
        unchanged=unchanged,
        removed=frozenset(current).difference(unchanged, changed),
        skipped=dict(skipped),
    )
