"""Image contents, installed as the Dockerfiles do: their sizes, and the whole graph run from them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from dockerfiles.build import ROOT, version
from tests.images.recipes import LIGHT, WITH_TRITON
from tests.images.sizes import LIMITS_MB, measure, row
from tests.images.staging import Staged
from tests.processes import free_ports, program

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CORPUS = Path(__file__).parents[1] / "corpus"

IMPORTED_AS = {
    "build": "build",
    "grpcio-tools": "grpc_tools",
    "huggingface-hub": "huggingface_hub",
    "onnxruntime": "onnxruntime",
    "pillow": "PIL",
}
"""locks/unused.in, by the name that Python knows."""

OF_EXTRAS = {"vectorstore.stores.milvus": "pymilvus", "vectorstore.stores.pgvector": "psycopg"}
"""Module → its library, which the images lack."""


@pytest.mark.parametrize("service", LIGHT)
def test_a_light_service_is_light(service: str, staged: Callable[[str], Staged]) -> None:
    sizes = measure(staged(service))
    assert sizes.total_mb <= LIMITS_MB[service], row(service, sizes)
    # What belongs to no package: the environment itself and our rooms.
    assert sizes.total_mb - sum(sizes.packages.values()) < 8


@pytest.mark.parametrize("service", LIGHT)
def test_every_module_of_a_light_service_imports(service: str, staged: Callable[[str], Staged]) -> None:
    """In a clean environment, with no other rooms than its image has."""
    image = staged(service)
    script = (
        "import importlib, json, pkgutil, sys\n"
        "of_extras = json.loads(sys.argv.pop())\n"
        "room = importlib.import_module(sys.argv.pop())\n"
        "for module in pkgutil.walk_packages(room.__path__, room.__name__ + '.'):\n"
        "    try:\n"
        "        print(importlib.import_module(module.name).__file__)\n"
        "    except ModuleNotFoundError as error:\n"
        "        if error.name != of_extras.get(module.name):\n"
        "            raise\n"
    )
    done = subprocess.run(
        [image.python, "-c", script, service, json.dumps(OF_EXTRAS)],
        cwd=image.working_directory,
        env=image.environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = image.root / "opt" / "kserve-rag"
    modules = done.stdout.split()
    assert str(folder / service / "__main__.py") in modules
    assert all(Path(module).is_relative_to(folder) for module in modules)


@pytest.mark.parametrize("service", LIGHT)
def test_the_distribution_has_its_version_and_entry_points(service: str, staged: Callable[[str], Staged]) -> None:
    image = staged(service)
    script = (
        "import json; from importlib.metadata import distribution; found = distribution('kserve-rag')\n"
        "print(json.dumps([found.version, sorted([e.group, e.name, e.value] for e in found.entry_points)]))"
    )
    done = subprocess.run([image.python, "-c", script], env=image.environ(), capture_output=True, text=True, check=True)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("entry-points", {})
    expected = [[group, name, target] for group, members in declared.items() for name, target in members.items()]
    assert json.loads(done.stdout) == [version(), sorted(expected)]


@pytest.mark.parametrize("service", LIGHT)
def test_unused_packages_are_not_importable(service: str, staged: Callable[[str], Staged]) -> None:
    image = staged(service)
    names = ["pip", "setuptools", "wheel", "uv", *IMPORTED_AS.values()]
    script = "import importlib.util, sys; print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
    said = subprocess.run(
        [image.python, "-c", script, *names], env=image.environ(), capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"
    # Each name of the list is one that the file has.
    listed = (ROOT / "locks" / "unused.in").read_text(encoding="utf-8")
    assert set(re.findall(r"^[a-z][a-z0-9-]*", listed, re.MULTILINE)) == IMPORTED_AS.keys()


@pytest.mark.parametrize("service", WITH_TRITON)
def test_triton_is_in_its_default_folders(service: str, staged: Callable[[str], Staged]) -> None:
    server = staged(service).root / "opt" / "tritonserver"
    for name in (
        "bin/tritonserver",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_stub",
    ):
        assert (server / name).is_file(), name


CONTAINED = """
for folder in $READ_ONLY; do mount --bind "$folder" "$folder" && mount -o remount,bind,ro "$folder" || exit 1; done
cd "$WORKING_DIRECTORY" && exec "$@"
"""
UNSHARE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def can_mount() -> bool:
    """Whether this machine allows private mounts."""
    try:
        return subprocess.run([*UNSHARE, "mount", "--make-rprivate", "/"], capture_output=True).returncode == 0
    except OSError:
        return False


class Images:
    """A graph on loopback whose programs run as their containers would: their image and the models are read-only, where
    this machine can mount them so."""

    def __init__(self, staged: Callable[[str], Staged], folder: Path, stack: contextlib.ExitStack) -> None:
        self._staged, self._folder, self._stack = staged, folder, stack
        self.mounts = can_mount()
        self._before: dict[Path, dict[Path, tuple[int, int]]] = {}

    def image(self, service: str) -> Staged:
        image = self._staged(service)
        folder = image.root / "opt"
        self._before[folder] = _files(folder)
        return image

    def command(
        self, service: str, *arguments: str, models: Path | None = None, **variables: str
    ) -> tuple[list[str], dict[str, str]]:
        """How the program is run, and its variables. What it reads its models from is read-only too."""
        image = self.image(service)
        folders = [image.root / "opt", *([models] if models else [])] if self.mounts else []
        assert not any(re.search(r"\s", str(folder)) for folder in folders)
        contained = {
            "READ_ONLY": " ".join(map(str, folders)),
            "WORKING_DIRECTORY": str(image.working_directory),
        }
        unshare = UNSHARE if self.mounts else []
        command = [*unshare, "sh", "-c", CONTAINED, "sh", *image.command(*arguments)]
        return command, image.environ(**variables, **contained)

    def start(self, service: str, ready: str, *arguments: str, models: Path | None = None, **variables: str) -> None:
        command, environ = self.command(service, *arguments, models=models, **variables)
        self._stack.enter_context(program(command, ready, environ, log=self._folder / f"{service}.log"))

    def triton(self, service: str, model: str, models: Path, **variables: str) -> str:
        """Starts Triton with a model and returns its base URL."""
        image = self.image(service)
        http, metrics = free_ports(2)
        arguments = [
            f"--model-repository={image.working_directory}/{service.partition('-')[0]}/model_repository",
            "--model-control-mode=explicit",
            f"--load-model={model}",
            "--disable-auto-complete-config",
            "--http-address=127.0.0.1",
            f"--http-port={http}",
            "--allow-grpc=false",
            f"--metrics-port={metrics}",
            # Only here: in the image these are the folders where it looks by itself.
            f"--backend-directory={image.root}/opt/tritonserver/backends",
            f"--cache-directory={image.root}/opt/tritonserver/caches",
        ]
        url = f"http://127.0.0.1:{http}"
        self.start(service, f"{url}/v2/models/{model}/ready", *arguments, models=models, **variables)
        return url

    def changed(self) -> list[Path]:
        """Files of the images that have changed."""
        return sorted(
            path for folder, before in self._before.items() for path, _ in before.items() ^ _files(folder).items()
        )


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture
def images(staged: Callable[[str], Staged], tmp_path: Path) -> Iterator[Images]:
    with contextlib.ExitStack() as stack:
        yield Images(staged, tmp_path, stack)


def test_the_whole_graph_runs_out_of_the_images(images: Images, tmp_path: Path) -> None:
    """Two small real models, documents to an index version, a question to an answer; nothing of an image is written."""
    from kserve_rag.models.store import ModelStore
    from kserve_rag.settings import Settings

    store = ModelStore(Settings().models)
    minilm, smollm = tmp_path / "embedder", tmp_path / "llm"
    shutil.copytree(store.materialise("minilm", "embedder").path, minilm)
    shutil.copytree(store.materialise("smollm2-135m", "llm").path, smollm)
    embedder = images.triton("embedder", "minilm", minilm, EMBEDDER_MODEL_DIR=str(minilm))
    predictor = images.triton("predictor-cpu", "tensorrt_llm", smollm, PREDICTOR_MODEL_DIR=str(smollm))

    command, environ = images.command(
        "ingest",
        "--json",
        str(CORPUS),
        models=minilm,
        INGEST_INDEX_ROOT=str(tmp_path / "indexes"),
        INGEST_EMBEDDER_URL=embedder,
        INGEST_TOKENIZER=str(minilm / "tokenizer.json"),
    )
    job = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert job.returncode == 0, job.stderr
    built = json.loads(job.stdout)["version"]

    search_http, search_grpc, http, grpc = free_ports(4)
    vectorstore, url = f"http://127.0.0.1:{search_http}", f"http://127.0.0.1:{http}"
    images.start(
        "vectorstore",
        f"{vectorstore}/v2/models/vectorstore/ready",
        VECTORSTORE_HOST="127.0.0.1",
        VECTORSTORE_HTTP_PORT=str(search_http),
        VECTORSTORE_GRPC_PORT=str(search_grpc),
        VECTORSTORE_INDEX_ROOT=str(tmp_path / "indexes"),
        VECTORSTORE_EMBEDDER_URL=embedder,
        VECTORSTORE_STORE="chroma",
    )
    images.start(
        "transformer",
        f"{url}/v2/models/rag/ready",
        "--model_name=rag",
        f"--predictor_host={predictor.removeprefix('http://')}",
        f"--http_port={http}",
        "--workers=1",
        models=smollm,
        TRANSFORMER_HOST="127.0.0.1",
        TRANSFORMER_GRPC_PORT=str(grpc),
        TRANSFORMER_VECTORSTORE_URL=vectorstore,
        TRANSFORMER_PREDICTOR_LAYOUT="llmapi",
        TRANSFORMER_PROMPT_FORMAT=str(smollm),
    )
    question = {"input": "How often are records sent?", "temperature": 0, "max_tokens": 30}
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        answer = client.post("/v1/models/rag:predict", json={"instances": [question]}).raise_for_status()
    (prediction,) = answer.json()["predictions"]
    assert prediction["text_output"]
    assert prediction["index_version"] == built
    assert "06:00 UTC" in prediction["sources"][0]["text"]
    assert [str(path) for path in images.changed()] == []
    if not images.mounts:
        pytest.skip("all passed, but on file systems that could be written to: this machine does not let it mount")


def test_the_page_is_served_out_of_its_image(images: Images) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    images.start("frontend", f"{url}/ready", FRONTEND_HOST="127.0.0.1", FRONTEND_HTTP_PORT=str(port))
    with httpx.Client(base_url=url, trust_env=False, timeout=10) as client:
        page = client.get("/").raise_for_status()
        (script,) = re.findall(r'<script type="module"[^>]* src="\./([^"]+)"', page.text)
        assert "immutable" in client.get(f"/{script}").raise_for_status().headers["cache-control"]
        assert client.get("/api/config").json()["version"] == version()
    assert [str(path) for path in images.changed()] == []
