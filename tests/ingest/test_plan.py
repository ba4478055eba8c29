"""The plan of a run, as data."""

from __future__ import annotations

import pytest

from ingest.plan import Plan, plan

CURRENT = {"a.md": "1", "b.md": "2", "uploads/c.md": "3"}


@pytest.mark.parametrize(
    ("tokens", "options", "expected"),
    [
        ({}, {}, Plan(removed=frozenset(CURRENT))),
        (CURRENT, {}, Plan(unchanged=frozenset(CURRENT))),
        (CURRENT, {"parse_all": True}, Plan(changed=tuple(CURRENT))),
        (
            {"z.md": "9", "b.md": "5", "a.md": "1", "y.md": "8"},
            {},
            Plan(("z.md", "y.md"), ("b.md",), frozenset(("a.md",)), frozenset(("uploads/c.md",))),
        ),
        (
            {"uploads/d.md": "4"},
            {"kept": frozenset(("a.md", "b.md"))},
            Plan(("uploads/d.md",), (), frozenset(("a.md", "b.md")), frozenset(("uploads/c.md",))),
        ),
        (
            {"uploads/c.md": "3"},
            {"kept": frozenset(("a.md", "b.md")), "parse_all": True},
            Plan((), ("uploads/c.md",), frozenset(("a.md", "b.md"))),
        ),
    ],
)
def test_each_file_has_one_fate(tokens: dict[str, str], options: dict[str, object], expected: Plan) -> None:
    assert plan(tokens, {}, CURRENT, **options) == expected


def test_without_a_version_everything_is_new() -> None:
    assert plan({"b.md": "1", "a.md": "2"}, {}, {}) == Plan(added=("b.md", "a.md"))


def test_an_unreadable_file_is_skipped_and_stays() -> None:
    reasons = {"a.md": "broken symbolic link", "new.md": "cannot be read: Permission denied"}
    planned = plan({"b.md": "2"}, reasons, {"a.md": "1", "b.md": "2", "gone.md": "3"})
    assert planned == Plan(unchanged=frozenset(("a.md", "b.md")), removed=frozenset(("gone.md",)), skipped=reasons)
    assert (planned.parsed, planned.dropped) == (frozenset(), frozenset(("gone.md",)))
