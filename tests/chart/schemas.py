"""Istio's kinds as its reference documents them. Unknown fields are errors.

Only the fields that a door needs; no package carries Istio's own schemas.
Source: https://istio.io/latest/docs/reference/config/networking/virtual-service/ and
https://istio.io/latest/docs/reference/config/security/authorization-policy/
"""

from __future__ import annotations

from typing import Any

import jsonschema

from tests.chart.rendering import Document
from tests.manifests.schemas import kubernetes_problems


def _object(required: list[str], /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": of}


_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_TEXT = {"type": "string", "minLength": 1}
_HOST = {"type": "string", "pattern": rf"^{_LABEL}(\.{_LABEL})*$", "maxLength": 253}
_HOST_AND_PORT = {"type": "string", "pattern": rf"^{_LABEL}(\.{_LABEL})*(:\*)?$"}
_HOSTS = _object(["hosts"], hosts=_list(_HOST_AND_PORT))
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}

_SPECS = {
    ("networking.istio.io/v1beta1", "VirtualService"): _object(
        ["gateways", "hosts", "http"],
        gateways=_list({"type": "string", "pattern": rf"^({_LABEL}/)?{_LABEL}$"}),
        hosts=_list(_HOST),
        http=_list(
            _object(
                ["route"],
                match=_list(_object(["uri"], uri=_object(["prefix"], prefix={"type": "string", "pattern": "^/"}))),
                route=_list(
                    _object(
                        ["destination"],
                        destination=_object(["host"], host=_HOST, port=_object(["number"], number=_PORT)),
                    )
                ),
            )
        ),
    ),
    ("security.istio.io/v1beta1", "AuthorizationPolicy"): _object(
        ["action", "provider", "rules", "selector"],
        action={"enum": ["CUSTOM"]},
        provider=_object(["name"], name=_TEXT),
        rules=_list(_object(["to"], to=_list(_object(["operation"], operation=_HOSTS)))),
        selector=_object(["matchLabels"], matchLabels=_LABELS),
    ),
}

_NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
_METADATA = _object(["name", "namespace", "labels"], name=_NAME, namespace=_HOST, labels=_LABELS)


def problems(document: Document) -> list[str]:
    """Violations of the schema of the document's kind."""
    spec = _SPECS.get((document["apiVersion"], document["kind"]))
    if spec is None:
        return list(kubernetes_problems(document))
    whole = _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": document["apiVersion"]},
        kind={"const": document["kind"]},
        metadata=_METADATA,
        spec=spec,
    )
    errors = jsonschema.Draft202012Validator(whole).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in errors]
