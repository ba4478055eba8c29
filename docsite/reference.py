"""Generates the reference of the documentation site from the programs: settings, commands, HTTP, tensors.

Its pages are only in the site, not under `docs/`: `kserve-rag up` indexes that folder by default, and tables of
settings answer no question.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import html
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from chassis.openapi import describe
from chassis.settings import read_settings
from evaluation.markdown import table

ROOT = Path(__file__).resolve().parent.parent
Schema = Mapping[str, Any]


class Program(NamedTuple):
    """The settings of a program."""

    title: str
    settings: str
    """`module:class`."""
    prefix: str
    about: str
    base: str = ""
    """Settings class whose variables are left out, because another section lists them."""


PROGRAMS = (
    Program("transformer", "transformer.settings:TransformerSettings", "TRANSFORMER_", "`python -m transformer`"),
    Program("vectorstore", "vectorstore.settings:VectorstoreSettings", "VECTORSTORE_", "`python -m vectorstore`"),
    Program(
        "Chroma store",
        "vectorstore.stores.chroma:ChromaSettings",
        "VECTORSTORE_CHROMA_",
        "The store `chroma`, when a version is built.",
    ),
    Program(
        "Chroma server",
        "vectorstore.stores.chroma_server:ChromaServerSettings",
        "VECTORSTORE_CHROMA_SERVER_",
        "The store `chroma_server`: read by `python -m vectorstore` and by `python -m ingest`.",
    ),
    Program(
        "Milvus",
        "vectorstore.stores.milvus:MilvusSettings",
        "VECTORSTORE_MILVUS_",
        "The store `milvus`: read by `python -m vectorstore` and by `python -m ingest`.",
    ),
    Program(
        "pgvector",
        "vectorstore.stores.pgvector:PgvectorSettings",
        "VECTORSTORE_PGVECTOR_",
        "The store `pgvector`: read by `python -m vectorstore` and by `python -m ingest`.",
    ),
    Program(
        "Pinecone",
        "vectorstore.stores.pinecone:PineconeSettings",
        "VECTORSTORE_PINECONE_",
        "The store `pinecone`: read by `python -m vectorstore` and by `python -m ingest`.",
    ),
    Program(
        "ingest",
        "ingest.settings:IngestSettings",
        "INGEST_",
        "`python -m ingest`, the job. Settings without a default are required.",
    ),
    Program(
        "ingest service",
        "ingest.settings:IngestServerSettings",
        "INGEST_",
        "`python -m ingest.server`. In addition to all settings of the job:",
        "ingest.settings:IngestSettings",
    ),
    Program(
        "web pages",
        "ingest.sources.fetching:WebSettings",
        "INGEST_WEB_",
        "Lists of links and web addresses as sources: read by `python -m ingest`, by the ingest service and by "
        "`kserve-rag ingest`.",
    ),
    Program(
        "S3 buckets",
        "ingest.sources.s3:S3Settings",
        "INGEST_S3_",
        "Buckets as sources: read by `python -m ingest`, by the ingest service and by `kserve-rag ingest`.",
    ),
    Program(
        "embedder",
        "embedder.settings:EncoderSettings",
        "EMBEDDER_",
        "The Triton models `minilm`, `bert` and `bge_m3`. Also parameters of `config.pbtxt`, in lower case and without "
        "the prefix; a parameter that is not empty takes precedence. `EMBEDDER_MODEL_DIR` (`/mnt/models`) is the "
        "folder of the model.",
    ),
    Program(
        "predictor",
        "predictor.engines.settings:EngineSettings",
        "PREDICTOR_",
        "The CPU model. Also parameters of its `config.pbtxt`, in lower case and without the prefix; a parameter that "
        "is not empty takes precedence.",
    ),
    Program(
        "OpenAI servers",
        "predictor.servers.openai:OpenAiSettings",
        "PREDICTOR_OPENAI_",
        "The LLM servers `openai` and `openai_chat`: read by `python -m transformer`.",
    ),
    Program(
        "Amazon Bedrock",
        "predictor.servers.bedrock:BedrockSettings",
        "PREDICTOR_BEDROCK_",
        "The LLM servers `bedrock` and `bedrock_claude_text`: read by `python -m transformer`.",
    ),
    Program(
        "Cloudera's model endpoint",
        "predictor.servers.cml:CmlSettings",
        "PREDICTOR_CML_",
        "The LLM server `cml`: read by `python -m transformer`.",
    ),
    Program(
        "kserve-rag",
        "kserve_rag.settings:Settings",
        "KSERVE_RAG_",
        "The command line and the launcher. Options of a command take precedence.",
    ),
    Program("web page", "frontend.settings:FrontendSettings", "FRONTEND_", "`python -m frontend`."),
    Program(
        "scaleout",
        "scaleout.settings:ScaleoutSettings",
        "SCALEOUT_",
        "`python -m scaleout`, with `INGEST_…`.",
    ),
)

_UNITS = {"_s": "seconds", "_bytes": "bytes", "_tokens": "tokens", "_chars": "characters", "_gb": "GiB"}


class Entry(NamedTuple):
    """A row of a table with two columns, which phones show one below the other."""

    name: str
    kind: str
    text: str
    default: str
    anchor: str = ""


def _entries(entries: Iterable[Entry]) -> list[str]:
    lines = ['<div class="kr-entries" markdown>', "", "| | |", "|---|---|"]
    for name, kind, text, default, anchor in entries:
        left = (f'<span id="{anchor}"></span>' if anchor else "") + f"`{name}`"
        left += f"<br><small>{kind}</small>" if kind else ""
        right = "<br>".join(filter(None, (_cell(text), default and f"<small>{default}</small>")))
        lines.append(f"| {left} | {right} |")
    return [*lines, "", "</div>"]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def settings_page() -> str:
    """The page of all programs' variables."""
    lines = [
        "# Settings",
        "",
        "Every program reads its settings from the environment when it starts. A wrong value ends the program with "
        "status 2 before a port opens, and the message names the variable. `kserve-rag up` sets the addresses of its "
        "services and passes on the other variables of its environment.",
    ]
    for program in PROGRAMS:
        known = settings(program._replace(settings=program.base)) if program.base else []
        entries = _entries(entry for entry in settings(program) if entry not in known)
        lines += ["", f"## {program.title}", "", program.about, "", *entries]
    lines += [
        "",
        "## Traces",
        "",
        "All services honour OpenTelemetry's variables: [observability](../observability.md#traces).",
    ]
    return "\n".join(lines) + "\n"


def settings(program: Program) -> list[Entry]:
    """The settings of a program, in the order of their fields."""
    kind = pkgutil.resolve_name(program.settings)
    schema = TypeAdapter(kind).json_schema(by_alias=False)
    described: list[tuple[str, Any, str, Any]]
    """Name, default, description, alias."""
    if dataclasses.is_dataclass(kind):
        docs = attribute_docs(kind)
        described = [(field.name, field.default, docs.get(field.name, ""), None) for field in dataclasses.fields(kind)]
    else:
        described = [
            (
                name,
                ... if info.is_required() else info.get_default(call_default_factory=True),
                info.description or "",
                info.validation_alias,
            )
            for name, info in kind.model_fields.items()
        ]
    entries = []
    for name, default, description, alias in described:
        shape = schema["properties"][name]
        variable = alias if isinstance(alias, str) else f"{program.prefix}{name}".upper()
        unit = "seconds" if name == "seconds" else next((_UNITS[end] for end in _UNITS if name.endswith(end)), "")
        facts = ", ".join(filter(None, (_type(shape, schema), _bounds(shape), unit)))
        entries.append(Entry(variable, facts, description, _default(default), variable.lower()))
    return entries


def _default(value: Any) -> str:
    if value is ...:
        return "**required**"
    if value is None:
        return "not set by default"
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, frozenset):
        value = sorted(value)
    text = ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(getattr(value, "value", value))
    text = text.replace(f"{ROOT}/", "").replace(f"{Path.home()}/", "~/")
    return f"default `{text}`" if text else "none by default"


def attribute_docs(kind: type) -> dict[str, str]:
    """The docstrings of a class's fields, each on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    docs = {}
    for field, text in itertools.pairwise(getattr(definition, "body", [])):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return docs


def cli_page() -> str:
    """The page of all commands, as typer documents them, and of the other programs."""
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


@functools.cache
def described(service: str) -> dict[str, Any]:
    """The `/openapi.json` of a service."""
    if service == "ingest":
        from ingest.server import application

        return application().openapi()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if service == "vectorstore":
            from vectorstore.__main__ import model_service as vectorstore
            from vectorstore.settings import VectorstoreSettings

            served = vectorstore(read_settings(VectorstoreSettings, index_root=folder))
        else:
            from transformer.__main__ import model_service as transformer
            from transformer.settings import TransformerSettings

            # This LLM server needs no tokenizer, and the routes do not depend on it.
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
            tensors = getattr(module, name).items()
            rows = [{title: f"`{key}`", "datatype": kind, "shape": _shape(dims)} for key, (kind, dims) in tensors]
            lines += ["", table(rows)]
    lines += ["", "## Types"]
    for name, schema in schemas.items():
        lines += ["", f"### {name}", ""]
        if schema.get("description"):
            lines += [schema["description"].replace("\n\n", "<br>").replace("\n", " "), ""]
        lines += _entries(
            Entry(
                field,
                ", ".join(filter(None, (_type(shape, {}, schemas), _bounds(shape)))),
                shape.get("description", ""),
                "required" if field in schema.get("required", ()) else _json_default(shape),
            )
            for field, shape in schema["properties"].items()
        )
    return "\n".join(lines) + "\n"


def _summary(operation: Schema) -> str:
    text = operation.get("description") or operation.get("summary") or ""
    return str(text).split("\n\n", maxsplit=1)[0].replace("\n", " ")


def _exchange(operation: Schema, schemas: Schema) -> str:
    """Types of request and response, and the parameters of the query."""
    content = operation.get("requestBody", {}).get("content", {})
    files = "multipart/form-data" in content
    taken = "files as multipart/form-data" if files else _references(content, schemas)
    responses = operation.get("responses", {})
    success = next((responses[status] for status in ("200", "202") if status in responses), {})
    given = _references(success.get("content", {}), schemas)
    lines = [", ".join(filter(None, (taken and f"takes {taken}", given and f"gives {given}")))]
    for each in operation.get("parameters", ()):
        if each["in"] == "query" and each.get("description"):
            bounds = ", ".join(filter(None, (_bounds(each["schema"]), _json_default(each["schema"]))))
            lines.append(f"`?{each['name']}=` {_cell(each['description'])}{f' ({bounds})' if bounds else ''}")
    return "<br>".join(filter(None, lines))


def _references(content: Schema, schemas: Schema) -> str:
    """Names of the types of a body, linked if they are on the page."""
    schema = (content.get("application/json") or content.get("text/event-stream", {})).get("schema", {})
    return ", ".join(_named(each["$ref"], schemas) for each in (schema, *schema.get("anyOf", ())) if "$ref" in each)


def _named(reference: str, schemas: Schema) -> str:
    name = reference.rsplit("/", 1)[-1]
    return f"[{name}](#{name.lower()})" if name in schemas else name


_FOREIGN = re.compile(r"HTTPValidationError|ValidationError|Infer.*|List.*|Metadata.*|Model.*|Request.*|Server.*")
"""Types that KServe documents."""


def _schemas(module: ModuleType, description: Schema) -> dict[str, dict[str, Any]]:
    """Name → type: the types of the module, then further types of the OpenAPI description."""
    kinds = [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, BaseModel) and kind.__module__ == module.__name__
    ]
    _, own = models_json_schema([(kind, "validation") for kind in kinds])
    others = description.get("components", {}).get("schemas", {})
    found = {name: schema for name, schema in others.items() if not _FOREIGN.fullmatch(name)} | own["$defs"]
    order = {kind.__name__: place for place, kind in enumerate(kinds)}
    ordered = sorted(found, key=lambda name: order.get(name, len(order)))
    return {name: found[name] for name in ordered if "properties" in found[name]}


def _json_default(shape: Schema) -> str:
    value = shape.get("default")
    return "" if value is None else f"default `{json.dumps(value)}`"


_TENSOR = re.compile(
    r"\{\s*name:\s*\"(?P<name>\w+)\",?\s*data_type:\s*TYPE_(?P<type>\w+),?\s*dims:\s*\[(?P<dims>[^\]]*)\]"
    r"(?P<optional>,?\s*optional:\s*true)?"
)


def tensors_page() -> str:
    """The tensors of the Triton models."""
    from predictor.servers.triton import LAYOUTS

    parts = [
        "# Triton models",
        "Embedder and predictor are models on Triton servers, with the tensors of their `config.pbtxt`; `STRING` is "
        "`BYTES` on the wire.",
    ]
    for room, about in (
        ("embedder", "One text per row. [The embedder's page](../rooms/embedder/README.md) explains them."),
        (
            "predictor",
            "The CPU model has the tensors of TensorRT-LLM's `llmapi` model. It is decoupled: it answers "
            "`generate_stream` and gRPC streams. More: [the predictor's page](../rooms/predictor/README.md).",
        ),
    ):
        parts += [f"## {room}", about]
        for config in sorted((ROOT / room / "model_repository").glob("*/config.pbtxt")):
            parts.append(f"### {config.parent.name}")
            for title, tensors in zip(
                ("in", "out"), config.read_text(encoding="utf-8").split("output [", 1), strict=True
            ):
                rows = [
                    {
                        title: f"`{found['name']}`",
                        "datatype": found["type"],
                        "shape": _shape([int(each) for each in found["dims"].split(",") if each.strip()]),
                        "": "optional" if found["optional"] else "",
                    }
                    for found in _TENSOR.finditer(tensors)
                ]
                parts.append(table(rows))
    facts = {
        "model": [f"`{each.model}`" for each in LAYOUTS.values()],
        "streams": ["yes" if each.decoupled else "no" for each in LAYOUTS.values()],
    }
    for field in next(iter(LAYOUTS.values())).inputs:
        facts[field] = [", ".join(f"`{name}`" for name in one.inputs.get(field, ())) or "–" for one in LAYOUTS.values()]
    rows = [
        {"": fact, **dict(zip((f"`{name}`" for name in LAYOUTS), cells, strict=True))} for fact, cells in facts.items()
    ]
    parts += [
        "## Layouts",
        "The parameters that the transformer sends to each kind of LLM server (`TRANSFORMER_PREDICTOR_LAYOUT`), by "
        "their names there. If versions differ, the newest is first. `openai` and `openai_chat` have OpenAI's names.",
        table(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _shape(dims: Sequence[int]) -> str:
    return "[" + ", ".join("n" if each == -1 else str(each) for each in dims) + "]"


def _type(shape: Schema, root: Schema, schemas: Schema | None = None) -> str:
    """A JSON schema in a few words. Definitions of `root` are described in place, types of `schemas` are linked."""
    if "$ref" in shape:
        inner = root.get("$defs", {}).get(shape["$ref"].rsplit("/", 1)[-1])
        return _type(inner, root) if inner else _named(shape["$ref"], schemas or {})
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


def _bounds(shape: Schema) -> str:
    merged = dict(shape)
    for part in (*shape.get("anyOf", ()), *shape.get("allOf", ())):
        merged |= part
    # `ge` and `le`: pydantic's names of bounds behind a validator of ours.
    low = merged.get("minimum", merged.get("exclusiveMinimum", merged.get("ge")))
    high = merged.get("maximum", merged.get("exclusiveMaximum", merged.get("le")))
    above = "above " if "exclusiveMinimum" in merged else ""
    if low is not None and high is not None:
        return f"{above}{_number(low)} … {_number(high)}"
    if low is not None:
        return f"{above}{_number(low)}" + ("" if above else " or more")
    if high is not None:
        return f"{_number(high)} at most"
    if "maxItems" in merged:
        return f"at most {merged['maxItems']}"
    return f"at most {merged['maxLength']:,} characters" if "maxLength" in merged else ""


def _number(value: float) -> str:
    if isinstance(value, int) and value >= 2**53:
        return f"2^{value.bit_length()} - 1"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else f"{value:g}"


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/settings.md": settings_page,
    "reference/cli.md": cli_page,
    "reference/tensors.md": tensors_page,
    **{f"reference/{service}.md": functools.partial(api_page, service) for service in API},
    **{
        f"reference/{service}.openapi.json": lambda service=service: json.dumps(described(service), indent=1)  # type: ignore[misc]
        for service in API
    },
}
"""Path in the site → generator."""
