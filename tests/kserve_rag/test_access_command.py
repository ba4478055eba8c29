"""`kserve-rag access` changes the rules that the vectorstore reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kserve_rag.cli.app import app
from kserve_rag.errors import UsageError
from vectorstore.versions import AccessFile


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("KSERVE_RAG_HOME", str(tmp_path))
    return CliRunner()


def test_rules_are_set_listed_and_removed(run: CliRunner, tmp_path: Path) -> None:
    assert "no rules" in run.invoke(app, ["access"]).output
    assert run.invoke(app, ["access", "/", "--allow", "signed-in"]).output == "/ allow signed-in\n"
    shown = run.invoke(
        app, ["access", "hr/", "--allow", "group:hr", "--allow", "user:ann", "--deny", "user:bob"]
    ).output
    assert shown == "/ allow signed-in\nhr/ allow group:hr, user:ann; deny user:bob\n"
    run.invoke(app, ["access", "hr/plan.md", "--deny", "group:it"])
    rules = AccessFile(tmp_path / "indexes" / "default").read()
    assert rules.decision("hr/plan.md") == ({"group:hr", "user:ann"}, {"user:bob", "group:it"})
    assert rules.decision("other.md") == ({"signed-in"}, frozenset())
    listed = json.loads(run.invoke(app, ["access", "hr/", "--clear", "--json"]).output)
    assert (listed["epoch"], list(listed["rules"])) == (4, ["", "hr/plan.md"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--allow", "anyone"],
        ["hr/"],
        ["hr/", "--clear", "--deny", "anyone"],
        ["hr/", "--clear"],
        ["hr/", "--allow", "people"],
        ["/hr/", "--allow", "anyone"],
    ],
)
def test_a_mistake_changes_nothing(run: CliRunner, tmp_path: Path, arguments: list[str]) -> None:
    assert isinstance(run.invoke(app, ["access", *arguments]).exception, UsageError)
    assert AccessFile(tmp_path / "indexes" / "default").read().rules == {}
