"""The reference of the documentation site, generated from the programs: settings, commands, HTTP, tensors.

Its pages are only in the site, not under `docs/`: `kserve-rag up` indexes that folder by default, and tables of
settings answer no question.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import html
import importlib
import inspect
import itertools
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Room(NamedTuple):
    """The settings of a program."""

    title: str
    module: str
    """`module:class` of the settings."""
    prefix: str
    what: str
    beside: str = ""
    """Other settings, whose variables are left out here."""


ROOMS = (
    Room("transformer", "transformer.settings:TransformerSettings", "TRANSFORMER_", "`python -m transformer`"),
    Room("vectorstore", "vectorstore.settings:VectorstoreSettings", "VECTORSTORE_", "`python -m vectorstore`"),
    Room(
        "Chroma store",
        "vectorstore.stores.chroma:ChromaSettings",
        "VECTORSTORE_CHROMA_",
        "The store `chroma`, when a version is built.",
    ),
    Room(
        "ingest",
        "ingest.settings:IngestSettings",
        "INGEST_",
        "`python -m ingest`, the job. Settings without a default are required.",
    ),
    Room(
        "ingest service",
        "ingest.settings:IngestServerSettings",
        "INGEST_",
        "`python -m ingest.server`. In addition to all settings of the job:",
        "ingest.settings:IngestSettings",
    ),
    Room(
        "embedder",
        "embedder.settings:EncoderSettings",
        "EMBEDDER_",
        "The Triton models `minilm`, `bert` and `bge_m3`. Also parameters of `config.pbtxt`, in lower case and without "
        "the prefix; a parameter that is not empty takes precedence. `EMBEDDER_MODEL_DIR` (`/mnt/models`) is the "
        "folder of the model.",
    ),
    Room(
        "predictor",
        "predictor.engines.settings:EngineSettings",
        "PREDICTOR_",
        "The CPU model. Also parameters of its `config.pbtxt`, in lower case and without the prefix; a parameter that "
        "is not empty takes precedence.",
    ),
    Room(
        "kserve-rag",
        "kserve_rag.settings:Settings",
        "KSERVE_RAG_",
        "The command line and the launcher. Options of a command take precedence.",
    ),
    Room("web page", "frontend.settings:FrontendSettings", "FRONTEND_", "`python -m frontend`."),
    Room(
        "scaleout",
        "scaleout.settings:ScaleoutSettings",
        "SCALEOUT_",
        "`python -m scaleout`, with `INGEST_…`.",
    ),
)

SERVICES = ("transformer", "vectorstore", "ingest")
"""Services with an OpenAPI description."""

_UNITS = {"_s": "seconds", "_bytes": "bytes", "_tokens": "tokens", "_chars": "characters", "_gb": "GiB"}

# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Setting(NamedTuple):
    """A variable."""

    variable: str
    type: str
    default: str
    bounds: str
    unit: str
    description: str


def settings(room: Room) -> list[Setting]:
    """The settings of a program, in the order of their fields."""
    module, name = room.module.split(":")
    kind = getattr(importlib.import_module(module), name)
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(kind, room.prefix)
    schema = kind.model_json_schema(by_alias=False)
    rows = []
    for field, info in kind.model_fields.items():
        alias = info.validation_alias
        variable = alias if isinstance(alias, str) else f"{room.prefix}{field}".upper()
        shape = schema["properties"][field]
        default = "" if info.is_required() else _default(info.get_default(call_default_factory=True))
        rows.append(
            Setting(variable, _type(shape, schema), default, _bounds(shape), _unit(field), info.description or "")
        )
    known = settings(room._replace(module=room.beside, beside="")) if room.beside else ()
    return [row for row in rows if row not in known]


def _of_dataclass(kind: Any, prefix: str) -> list[Setting]:
    told, hints = attribute_docs(kind), typing.get_type_hints(kind)
    return [
        Setting(
            f"{prefix}{field.name}".upper(),
            _annotated(hints[field.name]),
            _default(field.default),
            "",
            _unit(field.name),
            told.get(field.name, ""),
        )
        for field in dataclasses.fields(kind)
    ]


def _default(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Path):
        for folder, name in ((ROOT, ""), (Path.home(), "~/")):
            if value.is_relative_to(folder):
                return f"`{name}{value.relative_to(folder)}`"
        return f"`{value}`"
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, int) and value >= 10_000:
        return f"`{value}`"
    text = ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return f"`{text}`" if text else "none"


def _unit(field: str) -> str:
    if field == "seconds":
        return "seconds"
    for ending, unit in _UNITS.items():
        if field.endswith(ending):
            return unit
    return ""


def settings_page() -> str:
    """The variables of all programs."""
    lines = [
        "# Settings",
        "",
        "Every program reads its settings from the environment when it starts. A wrong value ends the program with "
        "status 2 before a port opens, and the message names the variable. `kserve-rag up` sets the addresses of its "
        "services and passes on the other variables of its environment.",
    ]
    for room in ROOMS:
        lines += ["", f"## {room.title}", "", room.what, "", *_settings_table(room)]
    lines += [
        "",
        "## Traces",
        "",
        "All services honour OpenTelemetry's variables: [observability](../observability.md#traces).",
    ]
    return "\n".join(lines) + "\n"


def _settings_table(room: Room) -> list[str]:
    return _entries(
        Entry(
            row.variable,
            ", ".join(part for part in (row.type, row.bounds, row.unit) if part),
            row.description,
            _defaults(row.default),
            row.variable.lower(),
        )
        for row in settings(room)
    )


def _defaults(default: str) -> str:
    if not default:
        return "**required**"
    return f"default {default}" if default.startswith("`") else f"{default} by default"


class Entry(NamedTuple):
    """A row of a table with two columns, which a phone shows below each other."""

    name: str
    kind: str
    text: str
    default: str
    anchor: str = ""


def _entries(entries: Iterable[Entry]) -> list[str]:
    lines = ['<div class="kr-entries" markdown>', "", "| | |", "|---|---|"]
    for name, kind, text, default, anchor in entries:
        here = f'<span id="{anchor}"></span>' if anchor else ""
        left = f"{here}`{name}`" + (f"<br><small>{kind}</small>" if kind else "")
        lines.append(f"| {left} | {'<br>'.join(part for part in (_cell(text), default and _small(default)) if part)} |")
    return [*lines, "", "</div>"]


def _small(text: str) -> str:
    return f"<small>{text}</small>"


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def cli_page() -> str:
    """Every command as typer documents it, and the other programs."""
    documented = _output([sys.executable, "-m", "typer", "kserve_rag.cli.app", "utils", "docs", "--name", "kserve-rag"])
    documented = re.sub(r'<span style="font-weight: bold">(.*?)</span>', r"**\1**", documented)
    lines = ["# Command line", *_examples_as_code(html.unescape(documented).split("\n")[1:])]
    lines += [
        "Errors are one line on standard error. The exit status gives their kind: "
        "[kserve_rag](../rooms/kserve_rag/README.md#exit-status).",
        "",
        "## Programs of the services",
        "",
        "`python -m transformer` and `python -m vectorstore` take their [settings](settings.md) from the environment; "
        "the transformer also takes the arguments that KServe's controller passes. `python -m scaleout` is `python -m "
        "ingest` [on Ray](../ray.md). [The embedder's page](../rooms/embedder/README.md#bge-m3-on-cpus) documents "
        "`python -m embedder.export`.",
        "",
        "```text",
        _output([sys.executable, "-m", "ingest", "--help"]),
        "```",
        "",
        "## make",
        "",
        "In a clone of the repository:",
        "",
        "| | |",
        "|---|---|",
    ]
    targets = re.finditer(r"^([a-z-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    lines += [f"| `make {name}` | {_cell(what)} |" for name, what in (found.groups() for found in targets)]
    return "\n".join(lines) + "\n"


def _output(command: Sequence[str]) -> str:
    """The standard output of one of our programs."""
    environment = {"COLUMNS": "100", "NO_COLOR": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def _examples_as_code(lines: Iterable[str]) -> Iterator[str]:
    """Fences the indented lines of help texts."""
    for is_code, block in itertools.groupby(lines, key=lambda line: line.startswith("  ")):
        text = "\n".join(block)
        yield f"```text\n{textwrap.dedent(text)}\n```" if is_code else text


# ── HTTP ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def described(service: str) -> dict[str, Any]:
    """The `/openapi.json` of a service."""
    if service == "ingest":
        from ingest.server import application

        return application().openapi()
    from chassis.openapi import describe
    from chassis.settings import read_settings

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if service == "vectorstore":
            from vectorstore.__main__ import model_service as vectorstore
            from vectorstore.settings import VectorstoreSettings

            served = vectorstore(read_settings(VectorstoreSettings, index_root=folder))
        else:
            from transformer.__main__ import model_service as transformer
            from transformer.settings import TransformerSettings

            # This LLM server needs no tokenizer; the routes do not depend on it.
            settings = read_settings(TransformerSettings, predictor_layout="openai_chat", context_tokens=128)
            served = transformer(settings)
    if served.api is None:
        raise LookupError(f"{service} has no description")
    return describe(served.api, served.routers, served.model.name)


class ApiPage(NamedTuple):
    """Texts of a page in addition to the OpenAPI description."""

    title: str
    intro: str
    wire: str
    """Module with the types."""
    tensors: tuple[str, str] | None = None
    """Names of the tables of tensors in that module."""


API = {
    "transformer": ApiPage(
        "Transformer",
        "The service for users, port 8080. [API](../api.md) explains how to use it; this page lists every field and is "
        "generated from the [OpenAPI description](transformer.openapi.json).",
        "transformer.wire",
        ("INPUT_TENSORS", "OUTPUT_TENSORS"),
    ),
    "vectorstore": ApiPage(
        "Vectorstore",
        "Search without answers, port 8082 of a graph on one machine. [API](../api.md#search-alone) explains how to "
        "use it; this page lists all fields and is generated from the [OpenAPI description](vectorstore.openapi.json).",
        "vectorstore.wire",
    ),
    "ingest": ApiPage(
        "Ingest",
        "Adds documents to a running index and removes them: `python -m ingest.server`, port 8086 of a graph on one "
        "machine. This page is generated from the [OpenAPI description](ingest.openapi.json).",
        "ingest.wire",
    ),
}


def api_page(service: str) -> str:
    """The routes and types of a service."""
    page, description = API[service], described(service)
    module = importlib.import_module(page.wire)
    schemas = _schemas(module, description)
    lines = [f"# {page.title}", "", page.intro]
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }
    own = {name for name, each in operations.items() if each["tags"] != ["readiness"]}
    for title, chosen in (("Routes", own), ("Routes of every KServe model", operations.keys() - own)):
        if chosen:
            lines += ["", f"## {title}", ""]
            lines += _entries(
                Entry(name, "", _summary(each), _exchange(each, schemas))
                for name, each in operations.items()
                if name in chosen
            )
    lines += ["", "Errors: [API](../api.md#errors)."]
    if page.tensors:
        lines += ["", "## Tensors", "", "Of `infer` and gRPC. Parameters are [1] for all questions, or [n, 1]."]
        for title, name in zip(("in", "out"), page.tensors, strict=True):
            lines += ["", f"| {title} | datatype | shape |", "|---|---|---|"]
            lines += [
                f"| `{tensor}` | {datatype} | {_shape(shape)} |"
                for tensor, (datatype, shape) in getattr(module, name).items()
            ]
    lines += ["", "## Types"]
    for name, schema in schemas.items():
        lines += ["", f"### {name}", "", *_type_table(schema, schemas, getattr(module, name, None))]
    return "\n".join(lines) + "\n"


def _exchange(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    taken, given = _linked(_body(operation), schemas), _linked(_answer(operation), schemas)
    lines = [", ".join(part for part in (taken and f"takes {taken}", given and f"gives {given}") if part)]
    for each in operation.get("parameters", ()):
        if each["in"] == "query" and each.get("description"):
            default = _json_default(each["schema"])
            bounds = ", ".join(part for part in (_bounds(each["schema"]), default) if part)
            lines.append(f"`?{each['name']}=` {_cell(each['description'])}{f' ({bounds})' if bounds else ''}")
    return "<br>".join(line for line in lines if line)


def _summary(operation: Mapping[str, Any]) -> str:
    text = operation.get("description") or operation.get("summary") or ""
    return str(text).split("\n\n", maxsplit=1)[0].replace("\n", " ")


def _body(operation: Mapping[str, Any]) -> str | None:
    content = operation.get("requestBody", {}).get("content", {})
    return "files as multipart/form-data" if "multipart/form-data" in content else _reference(content)


def _answer(operation: Mapping[str, Any]) -> str | None:
    responses = operation.get("responses", {})
    return _reference(
        next((responses[status].get("content", {}) for status in ("200", "202") if status in responses), {})
    )


def _reference(content: Mapping[str, Any]) -> str | None:
    schema = (content.get("application/json") or content.get("text/event-stream", {})).get("schema", {})
    found = [each["$ref"].rsplit("/", 1)[-1] for each in (schema, *schema.get("anyOf", ())) if "$ref" in each]
    return ", ".join(found) or None


_FOREIGN = re.compile(r"HTTPValidationError|ValidationError|Infer.*|List.*|Metadata.*|Model.*|Request.*|Server.*")
"""KServe's types, which its documentation describes."""


def _schemas(module: types.ModuleType, description: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name → type: those of the module, then those that only the description has."""
    from pydantic import BaseModel
    from pydantic.json_schema import models_json_schema

    kinds = [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, BaseModel) and kind.__module__ == module.__name__
    ]
    _, own = models_json_schema([(kind, "validation") for kind in kinds])
    found = {name: schema for name, schema in own["$defs"].items() if "properties" in schema}
    for name, schema in description.get("components", {}).get("schemas", {}).items():
        if "properties" in schema and not _FOREIGN.fullmatch(name):
            found.setdefault(name, schema)
    order = [kind.__name__ for kind in kinds]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _type_table(schema: Mapping[str, Any], schemas: Mapping[str, Any], kind: type | None) -> list[str]:
    told = attribute_docs(kind) if kind is not None else {}
    lines = []
    if schema.get("description"):
        lines += [str(schema["description"]).replace("\n\n", "<br>").replace("\n", " "), ""]
    required = set(schema.get("required", ()))
    lines += _entries(
        Entry(
            name,
            ", ".join(part for part in (_type(shape, {}, schemas), _bounds(shape)) if part),
            shape.get("description") or told.get(name, ""),
            "required" if name in required else _json_default(shape),
        )
        for name, shape in schema["properties"].items()
    )
    return lines


def _json_default(shape: Mapping[str, Any]) -> str:
    value = shape.get("default")
    return "" if value is None else f"default `{json.dumps(value)}`"


def _linked(name: str | None, schemas: Mapping[str, Any]) -> str:
    if not name:
        return ""
    return ", ".join(
        " … ".join(f"[{part}](#{part.lower()})" if part in schemas else part for part in each.split(" … "))
        for each in name.split(", ")
    )


# ── tensors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_TENSOR = re.compile(
    r"\{\s*name:\s*\"(?P<name>\w+)\",?\s*data_type:\s*TYPE_(?P<type>\w+),?\s*dims:\s*\[(?P<dims>[^\]]*)\]"
    r"(?P<optional>,?\s*optional:\s*true)?"
)


def tensors_page() -> str:
    """The tensors of the Triton models."""
    from predictor.servers.triton import LAYOUTS

    lines = ["# Triton models", "", "Embedder and predictor are models on Triton servers, with the tensors of their "
             "`config.pbtxt`; `STRING` is `BYTES` on the wire."]  # fmt: skip
    for room, what in (
        ("embedder", "One text per row. [The embedder's page](../rooms/embedder/README.md) explains them."),
        (
            "predictor",
            "The CPU model has the tensors of TensorRT-LLM's `llmapi` model. It is decoupled: it answers "
            "`generate_stream` and gRPC streams. More: [the predictor's page](../rooms/predictor/README.md).",
        ),
    ):
        lines += ["", f"## {room}", "", what]
        for config in sorted((ROOT / room / "model_repository").glob("*/config.pbtxt")):
            text = config.read_text(encoding="utf-8")
            taken, given = text.split("output [", 1)
            lines += ["", f"### {config.parent.name}"]
            for title, part in (("in", taken), ("out", given)):
                lines += ["", f"| {title} | datatype | shape | |", "|---|---|---|---|"]
                lines += [
                    f"| `{found['name']}` | {found['type']} | {_shape(_dims(found['dims']))} | "
                    f"{'optional' if found['optional'] else ''} |"
                    for found in _TENSOR.finditer(part)
                ]
    lines += [
        "",
        "## Layouts",
        "",
        "The parameters that the transformer sends to each kind of LLM server (`TRANSFORMER_PREDICTOR_LAYOUT`), by "
        "their names there. If versions differ, the newest is first. `openai` and `openai_chat` have OpenAI's names.",
        "",
        "| | " + " | ".join(f"`{name}`" for name in LAYOUTS) + " |",
        "|---|" + "---|" * len(LAYOUTS),
        "| model | " + " | ".join(f"`{each.model}`" for each in LAYOUTS.values()) + " |",
        "| streams | " + " | ".join("yes" if each.decoupled else "no" for each in LAYOUTS.values()) + " |",
    ]
    for field in next(iter(LAYOUTS.values())).inputs:
        names = (", ".join(f"`{name}`" for name in each.inputs.get(field, ())) or "–" for each in LAYOUTS.values())
        lines.append(f"| {field} | " + " | ".join(names) + " |")
    return "\n".join(lines) + "\n"


def _dims(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each.strip()]


def _shape(dims: Sequence[int]) -> str:
    return "[" + ", ".join("n" if each == -1 else str(each) for each in dims) + "]"


# ── types in words ────────────────────────────────────────────────────────────────────────────────────────────────────


def _type(
    shape: Mapping[str, Any], root: Mapping[str, Any], schemas: Mapping[str, Any] = types.MappingProxyType({})
) -> str:
    """A JSON schema in a few words."""
    if "$ref" in shape:
        name = shape["$ref"].rsplit("/", 1)[-1]
        if name in schemas:
            return f"[{name}](#{name.lower()})"
        inner = root.get("$defs", {}).get(name, {})
        return _type(inner, root, schemas) if inner else name
    if "enum" in shape:
        return ", ".join(f"`{each}`" for each in shape["enum"])
    if "const" in shape:
        return f"`{json.dumps(shape['const'])}`"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in shape:
            return " or ".join(_type(each, root, schemas) for each in shape[key] if each.get("type") != "null")
    kind = shape.get("type")
    if kind == "array":
        return f"list of {_type(shape.get('items', {}), root, schemas)}"
    if kind == "object" and isinstance(shape.get("additionalProperties"), dict):
        return f"object of {_type(shape['additionalProperties'], root, schemas)}"
    names = {"integer": "whole number", "string": "text", "boolean": "true, false", None: "any"}
    formats = {"path": "path", "uri": "URL", "password": "secret"}
    return formats.get(shape.get("format", ""), names.get(kind, str(kind)))


def _bounds(shape: Mapping[str, Any]) -> str:
    parts = [shape, *(each for key in ("anyOf", "allOf") for each in shape.get(key, ()))]
    merged: dict[str, Any] = {}
    for part in parts:
        merged.update(part)
    # `ge` and `le`: as pydantic names bounds that stand behind a validator of ours.
    low = merged.get("minimum", merged.get("exclusiveMinimum", merged.get("ge")))
    high = merged.get("maximum", merged.get("exclusiveMaximum", merged.get("le")))
    over = "above " if "exclusiveMinimum" in merged else ""
    if low is not None and high is not None:
        return f"{over}{_number(low)} … {_number(high)}"
    if low is not None:
        return f"{over}{_number(low)}" + ("" if over else " or more")
    if high is not None:
        return f"{_number(high)} at most"
    if "maxItems" in merged:
        return f"at most {merged['maxItems']}"
    if "maxLength" in merged:
        return f"at most {merged['maxLength']:,} characters"
    return ""


def _number(value: float) -> str:
    if isinstance(value, int) and value >= 2**53:
        return f"2^{value.bit_length()} - 1"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else f"{value:g}"


def _annotated(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{each}`" for each in typing.get_args(hint))
    inner = [each for each in typing.get_args(hint) if each is not type(None)] or [hint]
    return {int: "whole number", str: "text", Path: "path", float: "number", bool: "true, false"}.get(inner[0], "text")


def attribute_docs(kind: type) -> dict[str, str]:
    """The docstrings of a class's fields, inherited ones included, each on one line."""
    told: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.split(".", 1)[0] in ("builtins", "pydantic", "pydantic_settings"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        for field, text in itertools.pairwise(getattr(body, "body", [])):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                told[field.target.id] = " ".join(inspect.cleandoc(str(text.value.value)).split())
    return told


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/settings.md": settings_page,
    "reference/cli.md": cli_page,
    "reference/transformer.md": functools.partial(api_page, "transformer"),
    "reference/vectorstore.md": functools.partial(api_page, "vectorstore"),
    "reference/ingest.md": functools.partial(api_page, "ingest"),
    "reference/tensors.md": tensors_page,
    **{
        f"reference/{service}.openapi.json": lambda service=service: json.dumps(described(service), indent=1)  # type: ignore[misc]
        for service in SERVICES
    },
}
"""Path in the site → its generator."""
