"""`python -m docsite.typescript`: writes the TypeScript types of the transformer's API for the web page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from transformer.wire import Answer, EndEvent, GenerateRequest, Indexes, ModelList, SourcesEvent, TextEvent
from vectorstore.wire import StoredDocument

FILE = Path(__file__).parents[1] / "frontend" / "page" / "src" / "api" / "schema.ts"

_RESPONSES = (Answer, SourcesEvent, TextEvent, EndEvent, Indexes, StoredDocument, ModelList)
_TYPES = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


class _SentWhole(GenerateJsonSchema):
    """The services send every field of a response, so none is optional."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return self.mode == "serialization" or super().field_is_required(field, total)


def source() -> str:
    """The content of `FILE`."""
    definitions: dict[str, Any] = {}
    modes: tuple[tuple[type, JsonSchemaMode], ...] = (
        (GenerateRequest, "validation"),
        *((response, "serialization") for response in _RESPONSES),
    )
    for kind, mode in modes:
        schema = TypeAdapter(kind).json_schema(mode=mode, schema_generator=_SentWhole)
        definitions.update(schema.pop("$defs", {}))
        definitions[kind.__name__] = schema
    parts = ["// Generated from transformer/wire.py by `python -m docsite.typescript`. Do not edit.\n"]
    parts += [_interface(name, definitions[name]) for name in sorted(definitions)]
    return "\n".join(parts)


def _interface(name: str, schema: dict[str, Any]) -> str:
    lines = [f"export interface {name} {{"]
    required = schema.get("required", ())
    for field, kind in schema.get("properties", {}).items():
        lines.append(f"  {field}{'' if field in required else '?'}: {_type(kind)};")
    return "\n".join([*lines, "}\n"])


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[1]
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum") or [schema["const"]])
    if schema.get("type") == "array":
        items = _type(schema.get("items", {}))
        return f"({items})[]" if " | " in items else f"{items}[]"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"Record<string, {_type(values) if isinstance(values, dict) else 'unknown'}>"
    return _TYPES.get(schema.get("type", ""), "unknown")


if __name__ == "__main__":
    FILE.write_text(source(), encoding="utf-8")
