"""Validation like that of the API server, KServe's controller and its Python API. Unknown fields are errors."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kserve
import kserve.models
import kubernetes.client
import kubernetes_validate
import yaml

from tests.manifests.rendering import ROOT, Document

CRDS = ROOT.parent / "shared" / "kserve-crds"
"""KServe's CRDs with their schemas, outside the project."""

KUBERNETES_VERSION = "1.34"
"""The first version in which the preStop action `sleep` is stable; it is on by default since 1.30."""

WITHOUT_SCHEMA = {
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("networking.istio.io/v1", "VirtualService"),
    ("route.openshift.io/v1", "Route"),
    ("security.istio.io/v1", "AuthorizationPolicy"),
    ("security.istio.io/v1", "PeerAuthentication"),
    ("security.istio.io/v1", "RequestAuthentication"),
}
"""Kinds for which no package has a schema. All other kinds are checked."""

_KSERVE_MODELS = {
    "InferenceService": kserve.V1beta1InferenceService,
    "ServingRuntime": kserve.V1alpha1ServingRuntime,
    "InferenceGraph": kserve.V1alpha1InferenceGraph,
}
_OTHER_NAMES = {"K8sIoApiAppsV1DeploymentStrategy": "V1DeploymentStrategy"}
"""Kubernetes classes that KServe's generated code calls otherwise than the kubernetes package."""


def problems(document: Document) -> list[str]:
    """Violations of every schema of the document's kind; of CRDs only if they are on this machine."""
    if is_kserve(document):
        found = list(python_model_problems(document))
        if CRDS.is_dir():
            found += crd_problems(document)
        return found
    if (document["apiVersion"], document["kind"]) in WITHOUT_SCHEMA:
        return []
    return list(kubernetes_problems(document))


def is_kserve(document: Document) -> bool:
    return bool(document["apiVersion"].startswith("serving.kserve.io/"))


def kubernetes_problems(document: Document) -> Iterator[str]:
    """Violations of Kubernetes' own schema, including unknown fields."""
    try:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(str(part) for part in error.path)}: {error.message}"


def crd_problems(document: Document) -> Iterator[str]:
    """Violations of the CRD's schema, including unknown fields."""
    group_version = document["apiVersion"].split("/")[1]
    validator = _crd_validator(document["kind"], group_version)
    for error in validator.iter_errors(document):
        yield f"{error.json_path}: {error.message[:300]}"
    yield from _repeated(validator.schema, document, "$")


def _repeated(schema: Any, value: Any, path: str) -> Iterator[str]:
    """Entries of lists that are maps for the API server, with keys that are there already: it refuses them."""
    if isinstance(value, dict):
        known = schema.get("properties", {})
        for name, inner in value.items():
            yield from _repeated(known.get(name, {}), inner, f"{path}.{name}")
    elif isinstance(value, list):
        items = schema.get("items", {})
        if schema.get("x-kubernetes-list-type") == "map":
            names = schema["x-kubernetes-list-map-keys"]
            defaults = {name: items["properties"].get(name, {}).get("default") for name in names}
            keys = [tuple(entry.get(name, defaults[name]) for name in names) for entry in value]
            for key in {key for key in keys if keys.count(key) > 1}:
                yield f"{path}: {dict(zip(names, key, strict=True))} is there more than once"
        for number, inner in enumerate(value):
            yield from _repeated(items, inner, f"{path}[{number}]")


@functools.cache
def _crd_validator(kind: str, version: str) -> jsonschema.Draft202012Validator:
    for path in sorted(Path(CRDS).glob("*.yaml")):
        if path.stem != f"{kind.lower()}s":
            continue
        crd = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        for served in crd["spec"]["versions"]:
            if served["name"] == version:
                schema = _closed(served["schema"]["openAPIV3Schema"])
                # Kubernetes' own fields; the CRD's schema leaves them open.
                schema["properties"]["metadata"] = {"type": "object"}
                return jsonschema.Draft202012Validator(schema)
    raise LookupError(f"no CRD of {kind} {version} in {CRDS}")


def _closed(schema: Any) -> Any:
    """OpenAPI v3 of a CRD as JSON Schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        name: _closed(value)
        for name, value in schema.items()
        if not name.startswith("x-kubernetes-") or name.startswith("x-kubernetes-list-")
    }
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in schema and not is_open:
        closed["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if closed.pop("nullable", False) is True and isinstance(closed.get("type"), str):
        closed["type"] = [closed["type"], "null"]
    return closed


def python_model_problems(document: Document) -> Iterator[str]:
    """Fields that KServe's Python API does not know, down to Kubernetes' own types."""
    yield from _unknown(document, _KSERVE_MODELS[document["kind"]], document["kind"])


def _unknown(value: Any, kind: Any, where: str) -> Iterator[str]:
    if isinstance(kind, str):
        listed = re.fullmatch(r"[lL]ist\[(.+)\]", kind)
        mapped = re.fullmatch(r"dict\(str, (.+)\)|Dict\[str, (.+)\]", kind)
        if listed:
            if not isinstance(value, list):
                yield f"{where}: is not a list"
                return
            for position, item in enumerate(value):
                yield from _unknown(item, listed[1], f"{where}[{position}]")
            return
        if mapped:
            if not isinstance(value, dict):
                yield f"{where}: is not an object"
                return
            for name, item in value.items():
                yield from _unknown(item, mapped[1] or mapped[2], f"{where}.{name}")
            return
        if kind in _PLAIN:
            if not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind in ("int", "float")):
                yield f"{where}: {value!r} is not of type {kind}"
            return
        kind = _class(kind)
    if not isinstance(value, dict):
        yield f"{where}: is not an object"
        return
    fields = {field: kind.openapi_types[name] for name, field in kind.attribute_map.items()}
    for name, item in value.items():
        if name not in fields:
            yield f"{where}: {kind.__name__} has no field {name}"
        else:
            yield from _unknown(item, fields[name], f"{where}.{name}")


_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "datetime": (str,),
    "object": (object,),
    "ResourceQuantity": (str, int, float),
    "IntOrString": (int, str),
}


def _class(name: str) -> Any:
    name = _OTHER_NAMES.get(name, name)
    for package in (kserve.models, kserve, kubernetes.client):
        found = getattr(package, name, None)
        if found is not None:
            return found
    raise LookupError(f"neither kserve nor kubernetes has a class {name}")
