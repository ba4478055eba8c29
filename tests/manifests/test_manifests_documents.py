"""Every document of every combination against the schemas of its kind, and rules that no schema has."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from tests.manifests.pods import containers, named, pods
from tests.manifests.rendering import COMBINATIONS, COMPONENTS, MANIFESTS, NAMES, OVERLAYS, ROOT, Document
from tests.manifests.schemas import CRDS, WITHOUT_SCHEMA, is_kserve, problems


@pytest.mark.parametrize("name", NAMES)
def test_documents_fit_their_schemas(rendered: Any, name: str) -> None:
    assert rendered.problems[name] == []


@pytest.mark.skipif(not CRDS.is_dir(), reason=f"KServe's CRDs are not in {CRDS}")
def test_kserve_crds_are_available(documents: list[Document]) -> None:
    """So that it shows where the documents were checked against the Python API alone."""
    kinds = {document["kind"] for document in documents if is_kserve(document)}
    assert all((CRDS / f"{kind.lower()}s.yaml").is_file() for kind in kinds)


def test_names_are_unique(documents: list[Document]) -> None:
    names = [(d["kind"], d["metadata"]["name"], d["metadata"].get("namespace")) for d in documents]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_secret_is_written_down(documents: list[Document]) -> None:
    assert named(documents, "Secret") == {}
    for name, document in named(documents, "ConfigMap").items():
        told = [key for key in document["data"] if re.search(r"TOKEN$|PASSWORD|SECRET|ACCESS_KEY|API_KEY", key)]
        assert told == [], name
    for pod in pods(documents):
        for container in containers(pod):
            for variable in container.get("env", []):
                if re.search(r"TOKEN$|PASSWORD|SECRET|ACCESS_KEY", variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"], (pod.owner, variable["name"])


def test_images_have_a_tag(documents: list[Document]) -> None:
    for pod in pods(documents):
        for container in containers(pod):
            name, _, tag = container["image"].rpartition(":")
            assert name, f"{pod.owner}: {container['image']}"
            assert tag not in ("", "latest"), f"{pod.owner}: {container['image']}"


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("InferenceService", ["spec", "predictor", "minReplica"], 2),
        ("InferenceService", ["spec", "predictor", "containers", 0, "readinessProb"], {}),
        ("InferenceService", ["spec", "predictor", "containers", 0, "ports", 0, "containerPort"], "many"),
        ("ServingRuntime", ["spec", "containers", 0, "lifecycle", "preStop", "sleep", "minutes"], 1),
        ("ServingRuntime", ["spec", "supportedModelFormats", 0, "nam"], "x"),
        ("InferenceGraph", ["spec", "nodes", "root", "steps", 0, "url"], "http://x"),
        ("PodDisruptionBudget", ["spec", "maxUnavailables"], 1),
        ("CronJob", ["spec", "jobTemplate", "spec", "template", "spec", "containers", 0, "imagePull"], "Always"),
        ("NetworkPolicy", ["spec", "ingres"], []),
    ],
)
def test_wrong_documents_are_found(rendered: Any, kind: str, path: list[Any], value: Any) -> None:
    every = [document for found in rendered.documents.values() for document in found]
    good = next(
        document
        for document in every
        if document["kind"] == kind and (kind != "InferenceService" or document["metadata"]["name"] == "vectorstore")
    )
    assert problems(good) == []
    bad = copy.deepcopy(good)
    place = bad
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    found = problems(bad)
    assert found
    if is_kserve(good) and CRDS.is_dir():
        assert len(found) >= 2, "the CRD and the Python API both know"


@pytest.mark.skipif(not CRDS.is_dir(), reason=f"KServe's CRDs are not in {CRDS}")
def test_duplicate_ports_are_found(rendered: Any) -> None:
    """As the API server does, under whatever names."""
    bad = copy.deepcopy(named(rendered.documents["base"], "ServingRuntime")["kserve-rag-embedder"])
    bad["spec"]["containers"][0]["ports"].append({"name": "again", "containerPort": 8080})
    (problem,) = problems(bad)
    assert "'containerPort': 8080, 'protocol': 'TCP'" in problem


def test_kinds_without_a_schema_are_in_use(rendered: Any) -> None:
    used = {(d["apiVersion"], d["kind"]) for found in rendered.documents.values() for d in found}
    assert used >= WITHOUT_SCHEMA


def test_every_component_is_combined_and_explained() -> None:
    used = {component for components in COMBINATIONS.values() for component in components}
    assert used == set(COMPONENTS)
    overview = (MANIFESTS / "README.md").read_text(encoding="utf-8")
    guide = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    for component in COMPONENTS:
        assert (MANIFESTS / "components" / component / "README.md").is_file(), component
        assert f"`{component}`" in overview, component
    for overlay in OVERLAYS:
        assert (MANIFESTS / "overlays" / overlay / "README.md").is_file(), overlay
        assert f"`{overlay}`" in guide, overlay
