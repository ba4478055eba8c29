"""Renders combinations of the manifests with the real kustomize."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
COMPONENTS = sorted(path.parent.name for path in MANIFESTS.glob("components/*/kustomization.yaml"))
OVERLAYS = sorted(path.parent.name for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))

LIBRARY = ROOT / "build" / "kustomize" / "pykustomize" / "_lib" / "linux-amd64" / "libpykustomize.so"
"""Where `make manifests` puts kustomize as a library, out of the pykustomize wheel (x86_64)."""

_COMBINATIONS = {
    # Every engine.
    "engine-cpu": "cpu-openvino ingest models-from-pvc index-from-pvc",
    "engine-gpu": "gpu-trtllm ingest models-from-pvc index-from-pvc",
    "engine-existing": "existing-engines ingest models-from-pvc index-from-pvc",
    "engine-vllm": "vllm ingest models-from-pvc index-from-pvc",
    "engine-trtllm-serve": "trtllm-serve ingest models-from-pvc index-from-pvc",
    # Every source.
    "s3": "gpu-trtllm ingest models-from-s3 index-from-s3",
    "hf": "gpu-trtllm ingest models-from-hf index-from-pvc",
    "hf-s3": "vllm ingest models-from-hf index-from-s3",
    "oci": "gpu-trtllm ingest models-from-oci index-from-pvc",
    "without-ingest": "gpu-trtllm models-from-s3 index-from-s3",
    # What is added to a graph.
    "minilm": "cpu-openvino embedder-minilm ingest models-from-pvc index-from-pvc",
    "embedder-gpu": "gpu-trtllm embedder-gpu ingest models-from-pvc index-from-pvc",
    "embedder-gpu-knative": "cpu-openvino embedder-gpu ingest models-from-s3 index-from-s3 knative",
    "ingest-service": "cpu-openvino ingest ingest-service models-from-pvc index-from-pvc",
    "ingest-service-s3": "gpu-trtllm ingest ingest-service models-from-s3 index-from-pvc",
    "ingest-service-hf": "gpu-trtllm ingest ingest-service models-from-hf index-from-pvc",
    "ingest-service-oci": "gpu-trtllm ingest ingest-service models-from-oci index-from-pvc",
    "ingest-service-guarded": "gpu-trtllm embedder-gpu ingest ingest-service ingest-nightly models-from-pvc "
    "index-from-pvc istio-auth network-policies prometheus otel",
    "nightly": "cpu-openvino ingest ingest-nightly models-from-pvc index-from-pvc",
    "nightly-s3": "gpu-trtllm ingest ingest-nightly models-from-s3 index-from-s3",
    "download": "gpu-trtllm ingest models-from-pvc download-models index-from-pvc",
    "verify": "gpu-trtllm ingest models-from-pvc download-models verify-models index-from-pvc",
    "build": "existing-engines ingest models-from-pvc download-models build-engines index-from-pvc",
    "autoscaling": "gpu-trtllm ingest models-from-pvc index-from-pvc autoscaling",
    "istio-auth": "gpu-trtllm ingest models-from-pvc index-from-pvc istio-auth",
    "network-policies": "gpu-trtllm ingest models-from-pvc index-from-pvc network-policies",
    "prometheus": "gpu-trtllm ingest models-from-pvc index-from-pvc prometheus",
    "prometheus-serve": "trtllm-serve ingest models-from-pvc index-from-pvc istio-auth network-policies prometheus",
    "otel": "gpu-trtllm ingest models-from-pvc index-from-pvc otel",
    "inference-graph": "gpu-trtllm ingest models-from-pvc index-from-pvc inference-graph",
    "inference-graph-guarded": "gpu-trtllm ingest models-from-pvc index-from-pvc network-policies inference-graph",
    "several-models": "gpu-trtllm ingest models-from-pvc index-from-pvc network-policies several-models",
    "access-control": "gpu-trtllm ingest models-from-pvc index-from-pvc access-control",
    "httproute": "gpu-trtllm ingest models-from-pvc index-from-pvc httproute",
    "earlier-graph": "existing-engines ingest models-from-pvc index-from-pvc earlier-graph",
    "earlier-graph-serve": "trtllm-serve ingest models-from-pvc index-from-pvc earlier-graph",
    "earlier-graph-cpu": "cpu-openvino ingest models-from-pvc index-from-pvc earlier-graph",
    "earlier-graph-https": "existing-engines ingest models-from-s3 index-from-s3 istio-auth network-policies "
    "prometheus earlier-graph earlier-graph-https",
    # Together.
    "knative": "gpu-trtllm ingest models-from-s3 index-from-s3 knative",
    "knative-cpu": "cpu-openvino ingest models-from-pvc index-from-pvc otel knative",
    "production": "gpu-trtllm ingest ingest-nightly models-from-s3 index-from-s3 autoscaling istio-auth "
    "network-policies prometheus otel",
}
COMBINATIONS: Mapping[str, Sequence[str]] = {name: names.split() for name, names in _COMBINATIONS.items()}
"""Name → components, in the order of manifests/README.md."""

NAMES = ("base", *OVERLAYS, *COMBINATIONS)


class RenderError(Exception):
    """kustomize refused."""


def kustomize() -> Callable[[Path], str] | None:
    """A function that renders a folder: the library, else a program on the PATH. None if neither is installed."""
    if LIBRARY.is_file():
        return _build_with_library
    return next(iter(programs()), None)


def programs() -> list[Callable[[Path], str]]:
    """kustomize and kubectl, if they are on the PATH."""
    known = (("kustomize", ["build"]), ("kubectl", ["kustomize"]))
    found = [(shutil.which(program), arguments) for program, arguments in known]
    return [functools.partial(_run, [path, *arguments]) for path, arguments in found if path is not None]


def _run(command: Sequence[str], folder: Path) -> str:
    # Nothing of the user's: neither a cluster nor plugins.
    environment = {"PATH": os.environ["PATH"], "HOME": os.devnull, "KUBECONFIG": os.devnull}
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RenderError(done.stderr.strip())
    return done.stdout


def _build_with_library(folder: Path) -> str:
    """Source: pykustomize/_ffi.py and build.py of the wheel."""
    library = ctypes.CDLL(str(LIBRARY))
    library.pykustomize_last_error.restype = ctypes.c_char_p
    library.pykustomize_free.argtypes = [ctypes.c_void_p]
    result = ctypes.c_void_p()
    if library.pykustomize_build(str(folder).encode(), b"{}", ctypes.byref(result)) != 0:
        raise RenderError((library.pykustomize_last_error() or b"kustomize failed").decode())
    try:
        return ctypes.string_at(result.value or 0).decode()
    finally:
        library.pykustomize_free(result)


def folder_of(name: str, scratch: Path) -> Path:
    """The folder that is rendered for a combination; made in `scratch` where it is not an overlay or the base."""
    if name == "base":
        return MANIFESTS / "base"
    if name in OVERLAYS:
        return MANIFESTS / "overlays" / name
    folder = scratch / name
    folder.mkdir()
    to = os.path.relpath(MANIFESTS, folder.resolve())
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{to}/base"],
        "components": [f"{to}/components/{component}" for component in COMBINATIONS[name]],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder


def parse(text: str) -> list[Document]:
    """The documents of a stream."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]
