"""Collections on the command line, without a running graph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kserve_rag.settings import Settings
from tests.kserve_rag.command_line import Run, runner_here
from tests.vectorstore.sample_index import animals, publish
from vectorstore.versions import IndexRoot, export_version


@pytest.fixture
def indexes(tmp_path: Path) -> Path:
    return tmp_path / "indexes"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner_here(Settings(home=tmp_path), monkeypatch, capsys)


def test_collections_are_listed_and_described(cli: Run, indexes: Path) -> None:
    assert json.loads(cli("collections", "--json").stdout) == []
    publish(indexes, animals()[:1])
    pets = publish(indexes, animals()[:2], name="pets")
    (indexes / "half-built").mkdir()
    listed = json.loads(cli("collections", "--json").stdout)
    assert [(each["name"], each["documents"]) for each in listed] == [("default", 1), ("pets", 2)]
    assert f"pets 2 documents, 6 chunks, version {pets}" in cli("collections").stdout
    described = json.loads(cli("collections", "describe", "pets", "--json").stdout)
    assert (described["version"], described["versions"], described["documents"]) == (pets, 1, 2)
    assert "documents 2" in cli("collections", "describe", "pets").stdout
    (document,) = json.loads(cli("documents", "--json").stdout)
    assert document["source"] == "cats.md"
    assert len(json.loads(cli("documents", "--collection", "pets", "--json").stdout)) == 2


def test_a_collection_of_another_program_is_listed_and_forgotten(cli: Run, indexes: Path) -> None:
    folder = indexes / "press"
    folder.mkdir(parents=True)
    described = {"store": "chroma", "collection": "HPE_press_releases", "embedder": "all-MiniLM-L6-v2"}
    (folder / "existing.json").write_text(json.dumps(described))
    (listed,) = json.loads(cli("collections", "--json").stdout)
    assert (listed["name"], listed["version"], listed["store"]) == ("press", "HPE_press_releases", "chroma")
    assert "HPE_press_releases" in cli("collections").stdout
    described = json.loads(cli("collections", "describe", "press", "--json").stdout)
    assert (described["version"], described["documents"]) == ("HPE_press_releases", None)
    assert cli("collections", "delete", "press", "--yes").returncode == 0
    assert not folder.exists()


def test_rollback_goes_to_the_version_before_or_to_a_named_one(cli: Run, indexes: Path) -> None:
    root = IndexRoot(indexes, "pets")
    first, second, third = (publish(indexes, animals()[:number], name="pets") for number in (1, 2, 3))
    listed = json.loads(cli("versions", "--collection", "pets", "--json").stdout)
    assert [(each["version"], each["documents"], each["current"]) for each in listed] == [
        (first, 1, False),
        (second, 2, False),
        (third, 3, True),
    ]
    assert cli("rollback", "--collection", "pets").returncode == 0
    assert root.current() == second
    assert cli("rollback", "--collection", "pets", third).returncode == 0
    assert root.current() == third
    assert cli("rollback", "--collection", "pets", first).returncode == 0
    none = cli("rollback", "--collection", "pets")
    assert (none.returncode, f"no version before {first}" in none.stderr) == (2, True)
    unknown = cli("rollback", "--collection", "pets", "20200101T000000-abcdef")
    assert (unknown.returncode, "has no version" in unknown.stderr) == (2, True)
    assert root.current() == first


def test_a_damaged_version_is_listed_with_the_reason(cli: Run, indexes: Path) -> None:
    version = publish(indexes)
    (indexes / "default" / version / "manifest.json").write_text("{", "utf-8")
    (listed,) = json.loads(cli("versions", "--json").stdout)
    assert listed["current"]
    assert "manifest.json" in listed["problem"]
    assert cli("collections").returncode == 0


def test_a_collection_is_deleted_after_a_confirmation(cli: Run, indexes: Path) -> None:
    publish(indexes)
    publish(indexes, name="pets")
    asked = cli("collections", "delete", "pets")
    assert (asked.returncode, "Confirm it with --yes" in asked.stderr) == (2, True)
    assert cli("collections", "delete", "pets", "--yes").returncode == 0
    assert [root.name for root in IndexRoot.all(indexes)] == ["default"]
    assert not (indexes / "pets").exists()
    default = cli("collections", "delete", "default", "--yes")
    assert (default.returncode, "is searched by default" in default.stderr) == (2, True)


@pytest.mark.parametrize("command", [["versions"], ["rollback"], ["documents"]])
def test_names_are_checked(cli: Run, command: list[str]) -> None:
    wrong = cli(*command, "--collection", "../etc")
    assert (wrong.returncode, "cannot name a collection" in wrong.stderr) == (2, True)


def test_an_unknown_collection_names_the_known_ones(cli: Run, indexes: Path) -> None:
    publish(indexes)
    unknown = cli("versions", "--collection", "press")
    assert unknown.returncode == 2
    assert "There is no collection 'press': choose one of default." in unknown.stderr


def test_a_collection_is_exported_and_imported(cli: Run, indexes: Path, tmp_path: Path) -> None:
    version = publish(indexes, animals()[:2], name="pets")
    file = tmp_path / "pets.tar"
    shown = cli("export", "--collection", "pets", str(file))
    assert (shown.returncode, f"version {version} of pets is in" in shown.stdout) == (0, True)
    again = cli("export", "--collection", "pets", str(file))
    assert (again.returncode, "exists: choose another name" in again.stderr) == (2, True)
    assert cli("import", str(file)).returncode == 0
    assert len(IndexRoot(indexes, "pets").versions()) == 2
    assert "of dogs is current" in cli("import", str(file), "--collection", "dogs").stdout
    described = json.loads(cli("collections", "describe", "dogs", "--json").stdout)
    assert (described["documents"], described["store"]) == (2, "chroma")


def test_an_import_that_cannot_be_served_is_an_error(cli: Run, indexes: Path, tmp_path: Path) -> None:
    other = publish(tmp_path / "there", fingerprint="other@1")
    file = tmp_path / "default.tar"
    export_version(IndexRoot(tmp_path / "there", "default"), other, file, lambda done, total: None)
    publish(indexes, name="pets")
    refused = cli("import", str(file))
    assert (refused.returncode, "was made with the embedder other@1" in refused.stderr) == (2, True)
    missing = cli("import", str(tmp_path / "none.tar"))
    assert (missing.returncode, "none.tar: No such file or directory" in missing.stderr) == (2, True)
    nowhere = cli("export", "--collection", "pets", str(tmp_path / "nowhere" / "pets.tar"))
    assert (nowhere.returncode, "No such file or directory" in nowhere.stderr) == (2, True)
