"""Uploads of several callers: each sees and changes its own, managers everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chassis.identity import Signer
from chassis.principal import PRINCIPAL_HEADER, Principal
from tests.fakes.embedder import LoopbackEmbedder
from tests.ingest.running_ingest import RunningIngest, running_ingest
from vectorstore.versions import AccessFile, IndexRoot, admits, names_of

SECRET = "a secret of at least 32 characters"  # noqa: S105
ANN, BOB = Principal("ann", frozenset(("hr",))), Principal("bob")
BOSS = Principal("boss", frozenset(("managers",)))
NOTE = "The canary sings at noon."


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access") / "indexes"


@pytest.fixture(scope="module")
def service(root: Path, tokenizer_path: Path) -> Iterator[RunningIngest]:
    settings = {"principal_secret": SECRET, "managers": "group:managers"}
    with LoopbackEmbedder() as embedder, running_ingest(root, embedder.url, tokenizer_path, **settings) as running:
        yield running


def signed(principal: Principal | None) -> dict[str, str]:
    return {} if principal is None else {PRINCIPAL_HEADER: Signer(SECRET, "ingest").sign(principal, 60)}


def sources(service: RunningIngest, principal: Principal | None) -> list[str]:
    listed = service.http.get(service.documents, headers=signed(principal)).json()
    return [each["source"] for each in listed["documents"]]


def upload(service: RunningIngest, principal: Principal, files: dict[str, str], **parameters: Any) -> dict[str, Any]:
    """The ended task."""
    form = [("files", (name, text.encode())) for name, text in files.items()]
    accepted = service.http.post(service.documents, files=form, params=parameters, headers=signed(principal))
    assert accepted.status_code == 202, accepted.text
    task = f"/v1/tasks/{accepted.json()['id']}"
    service.http.get(f"{task}/events", headers=signed(principal))  # ends with the task
    ended: dict[str, Any] = service.http.get(task, headers=signed(principal)).json()
    assert (ended["state"], ended["result"]["skipped"]) == ("succeeded", [])
    return ended


def test_callers_see_their_own_uploads(service: RunningIngest, root: Path) -> None:
    """The same name and text, uploaded by two callers, is two documents. Neither learns of the other."""
    tasks = {who: upload(service, who, {"note.txt": NOTE}) for who in (ANN, BOB)}
    (anns,), (bobs,) = tasks[ANN]["sources"], tasks[BOB]["sources"]
    assert anns.split("/")[0::2] == bobs.split("/")[0::2] == ["uploads", "note.txt"]
    assert anns != bobs
    assert [sources(service, who) for who in (ANN, BOB, BOSS, None)] == [[anns], [bobs], sorted((anns, bobs)), []]
    rules = AccessFile(root / service.index).read()
    for who, reads in ((ANN, anns), (BOB, bobs)):
        assert [each for each in (anns, bobs) if admits(rules.decision(each), names_of(who))] == [reads]
    with IndexRoot(root, service.index).open() as version:
        assert set(version.manifest.sources) == {anns, bobs}

    theirs = tasks[ANN]["id"]
    assert service.http.get("/v1/tasks", headers=signed(BOB)).json()["tasks"] == [tasks[BOB]]
    absent = service.http.get("/v1/tasks/none", headers=signed(BOB))
    for method, path in (
        ("GET", f"/v1/tasks/{theirs}"),
        ("GET", f"/v1/tasks/{theirs}/events"),
        ("DELETE", f"/v1/tasks/{theirs}"),
    ):
        refused = service.http.request(method, path, headers=signed(BOB))
        assert (refused.status_code, refused.text) == (404, absent.text.replace("none", theirs))
    missing = service.http.delete(f"{service.documents}/uploads/none.txt", headers=signed(BOB))
    refused = service.http.delete(f"{service.documents}/{anns}", headers=signed(BOB))
    assert (refused.status_code, refused.text) == (404, missing.text.replace("uploads/none.txt", anns))
    assert sources(service, ANN) == [anns]


def test_a_request_may_name_other_readers(service: RunningIngest) -> None:
    (shared,) = upload(service, BOB, {"shared.txt": "For people of HR."}, readers=["group:hr", "user:bob"])["sources"]
    assert shared in sources(service, ANN)
    assert shared not in sources(service, None)
    refused = service.http.delete(f"{service.documents}/{shared}", headers=signed(ANN))
    assert refused.status_code == 403
    upload(service, BOB, {"shared.txt": "Now for Bob alone."})
    assert shared not in sources(service, ANN)
    assert shared in sources(service, BOB)
    wrong = service.http.post(
        service.documents, files={"files": ("x.txt", b"x")}, params={"readers": "everyone"}, headers=signed(BOB)
    )
    assert wrong.status_code == 400
    assert "everyone" in wrong.json()["error"]
    assert service.leftovers() == []


def test_who_may_change_what(service: RunningIngest) -> None:
    anonymous = service.http.post(service.documents, files={"files": ("x.txt", b"x")})
    assert anonymous.status_code == 401
    reindex = f"/v1/indexes/{service.index}/reindex"
    assert service.http.post(reindex, headers=signed(ANN)).status_code == 403
    accepted = service.http.post(reindex, headers=signed(BOSS))
    assert accepted.status_code == 202
    task = f"/v1/tasks/{accepted.json()['id']}"
    service.http.get(f"{task}/events", headers=signed(BOSS))
    assert service.http.get(task, headers=signed(BOSS)).json()["state"] == "succeeded"
    assert service.http.get(task, headers=signed(ANN)).status_code == 404


def test_managers_change_the_rules(service: RunningIngest) -> None:
    (note,) = upload(service, ANN, {"rules.txt": "Rules of the kiln."})["sources"]
    access = f"/v1/indexes/{service.index}/access"
    for method in ("GET", "PUT", "DELETE"):
        body = {"json": {"allow": ["anyone"]}} if method == "PUT" else {}
        assert service.http.request(method, access, headers=signed(ANN), **body).status_code == 403
    shared = service.http.put(access, params={"path": note}, json={"allow": ["anyone"]}, headers=signed(BOSS))
    assert shared.json()["rules"][note] == {"allow": ["anyone"], "deny": []}
    assert note in sources(service, None)
    assert service.http.delete(f"{service.documents}/{note}").status_code == 401
    removed = service.http.delete(access, params={"path": note}, headers=signed(BOSS)).json()
    assert removed["epoch"] == shared.json()["epoch"] + 1
    assert service.http.get(access, headers=signed(BOSS)).json() == removed
    assert note not in sources(service, None)
    for path, rule in (("/etc", {"allow": ["anyone"]}), ("", {"allow": ["people"]}), ("", {"permit": []})):
        refused = service.http.put(access, params={"path": path}, json=rule, headers=signed(BOSS))
        assert refused.status_code == 400, refused.text
