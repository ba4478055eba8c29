"""The reference of the documentation site, made from the programs: settings, commands, HTTP, tensors.

Its pages exist in the site alone. The text under `docs/` is also what `kserve-rag up` indexes by itself, and tables of
settings would answer no question there.

    python docsite/reference.py PAGE      prints one page, or the OpenAPI description of a service
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import enum
import functools
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
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Room(NamedTuple):
    """Settings of a program."""

    title: str
    module: str
    """`module:class` of the settings."""
    prefix: str
    what: str
    beside: str = ""
    """Settings that have a table already: what is the same there is left out."""


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
        "`python -m ingest`, the job. What has no default must be set.",
    ),
    Room(
        "ingest service",
        "ingest.settings:IngestServerSettings",
        "INGEST_",
        "`python -m ingest.server`. It has all settings of the job, and these.",
        "ingest.settings:IngestSettings",
    ),
    Room(
        "embedder",
        "embedder.settings:EncoderSettings",
        "EMBEDDER_",
        "The Triton models `minilm`, `bert` and `bge_m3`. Also parameters of `config.pbtxt`, in lower case and without "
        "the prefix; a parameter that is not empty comes first. `EMBEDDER_MODEL_DIR` (`/mnt/models`) is the folder of "
        "the model.",
    ),
    Room(
        "predictor",
        "predictor.engines.settings:EngineSettings",
        "PREDICTOR_",
        "The CPU model. Also parameters of its `config.pbtxt`, in lower case and without the prefix; a parameter that "
        "is not empty comes first.",
    ),
    Room(
        "kserve-rag",
        "kserve_rag.settings:Settings",
        "KSERVE_RAG_",
        "The command line and the launcher. An option of a command comes first.",
    ),
    Room("web page", "frontend.settings:FrontendSettings", "FRONTEND_", "`python -m frontend`."),
    Room("scaleout", "scaleout.settings:ScaleoutSettings", "SCALEOUT_", "`python -m scaleout`, beside `INGEST_…`."),
)

SERVICES = ("transformer", "vectorstore", "ingest")
"""Those with an OpenAPI description."""

_UNITS = {"_s": "seconds", "_bytes": "bytes", "_tokens": "tokens", "_chars": "characters", "_gb": "GiB"}

# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Setting(NamedTuple):
    """One variable."""

    variable: str
    type: str
    default: str
    bounds: str
    unit: str
    description: str


def settings(room: Room) -> list[Setting]:
    """Every field of a room's settings, in their order."""
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
    """Every variable of every program."""
    lines = [
        "# Settings",
        "",
        "Every program reads its settings from the environment, once, when it starts. A value that is wrong ends the "
        "program with status 2 before a port opens, and names the variable. `kserve-rag up` sets what joins its "
        "services; further variables of its environment reach them too.",
        "",
        "Where a setting is not set by default, its description says what follows.",
    ]
    for room in ROOMS:
        lines += ["", f"## {room.title}", "", room.what, "", *_settings_table(room)]
    lines += [
        "",
        "## Traces",
        "",
        "All services take OpenTelemetry's own variables: [observability](../observability.md#traces).",
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
    """A row of a table of names: two columns, one above the other on a phone."""

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


class Parameter(NamedTuple):
    """An option or argument of a command."""

    names: str
    default: str
    help: str


class Command(NamedTuple):
    """A command of `kserve-rag`."""

    name: str
    help: str
    parameters: list[Parameter]


def commands() -> list[Command]:
    """All commands of `kserve-rag`, subcommands after their group."""
    from kserve_rag.cli.app import app

    return list(_commands(app, "kserve-rag"))


def _commands(app: Any, path: str) -> Iterator[Command]:
    if app.registered_callback is not None and path != "kserve-rag":
        yield _command(path, app.registered_callback.callback)
    for info in app.registered_commands:
        yield _command(f"{path} {info.name or info.callback.__name__.replace('_', '-')}", info.callback)
    for group in app.registered_groups:
        yield from _commands(group.typer_instance, f"{path} {group.name}")


def _command(name: str, callback: Callable[..., Any]) -> Command:
    from typer.models import OptionInfo, ParameterInfo

    hints = typing.get_type_hints(callback, include_extras=True)
    parameters = []
    for parameter in inspect.signature(callback).parameters.values():
        hint = hints[parameter.name]
        told = next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, ParameterInfo)), None)
        if told is None or told.hidden:
            continue
        kind = typing.get_args(hint)[0]
        default = "" if parameter.default in (parameter.empty, None, False) else f"default `{parameter.default}`"
        if isinstance(told, OptionInfo):
            long = f"--{parameter.name.replace('_', '-')}"
            # Of a declaration in `Annotated`, typer keeps the first name where a default would be.
            declared = [each for each in (told.default, *(told.param_decls or ())) if isinstance(each, str)]
            names = declared or [long]
            if kind is bool and not declared:
                names.append(f"--no-{long[2:]}")
            value = "" if kind is bool else f" {told.metavar or _metavar(kind)}"
            shown = ", ".join(f"{each}{value}" for each in names)
            if kind is bool and parameter.default is True:
                default = f"default `{long}`"
        else:
            shown = told.metavar or parameter.name.upper()
            default = "required" if parameter.default is parameter.empty else default
        parameters.append(Parameter(shown, default, told.help or ""))
    return Command(name, inspect.getdoc(callback) or "", parameters)


def _metavar(kind: Any) -> str:
    inner = [each for each in typing.get_args(kind) if each is not type(None)] or [kind]
    if typing.get_origin(inner[0]) is list:
        inner = list(typing.get_args(inner[0]))
    return {int: "N", float: "NUMBER", Path: "PATH"}.get(inner[0], "TEXT")


def cli_page() -> str:
    """Every command, and the other programs."""
    from kserve_rag.cli.app import app

    lines = [
        "# Command line",
        "",
        *_help(app.info.help or ""),
        "",
        "Errors are one line on standard error. The exit status tells their kind: "
        "[kserve_rag](../rooms/kserve_rag/README.md#exit-status).",
    ]
    for command in commands():
        lines += ["", f"## {command.name}", "", *_help(command.help)]
        if command.parameters:
            lines += ["", *_entries(Entry(each.names, "", each.help, each.default) for each in command.parameters)]
    lines += [
        "",
        "## Programs of the services",
        "",
        "`python -m transformer` and `python -m vectorstore` take their [settings](settings.md) from the environment; "
        "the transformer also the arguments that KServe's controller gives it. `python -m scaleout` is `python -m "
        "ingest` [on Ray](../ray.md). `python -m embedder.export` is told on "
        "[the embedder's page](../rooms/embedder/README.md#bge-m3-on-cpus).",
        "",
        "```text",
        usage("ingest"),
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


def usage(module: str) -> str:
    """What `python -m MODULE --help` prints."""
    environment = {"COLUMNS": "100", "NO_COLOR": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", module, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _help(text: str) -> list[str]:
    """A docstring with rich's marks as Markdown: indented lines are commands."""
    lines: list[str] = []
    for is_code, group in itertools.groupby(inspect.cleandoc(text).split("\n"), key=lambda line: line.startswith("  ")):
        block = list(group)
        if is_code:
            lines += ["```text", *textwrap.dedent("\n".join(block)).split("\n"), "```"]
        else:
            lines += [re.sub(r"\[bold\](.*?)\[/\]", r"**\1**", line) for line in block]
    return lines


# ── HTTP ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def openapi(service: str) -> dict[str, Any]:
    """The OpenAPI description of a service, as its `/openapi.json` gives it. One per process: KServe has one app."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # operation ids of KServe's routes that ours stand before
        described: dict[str, Any] = _application(service, Path(folder)).openapi()
    return described


def _application(service: str, folder: Path) -> Any:
    from chassis.server import app, application
    from chassis.settings import read_settings

    if service == "ingest":
        from ingest.server import application as ingest

        return ingest()
    if service == "vectorstore":
        from vectorstore.__main__ import model_service as vectorstore
        from vectorstore.settings import VectorstoreSettings

        application(vectorstore(read_settings(VectorstoreSettings, index_root=folder)))
    else:
        from transformer.__main__ import model_service as transformer
        from transformer.settings import TransformerSettings

        # The routes depend on no model; the service wants one to begin with.
        model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
        (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
        config = {"eos_token": "a", "chat_template": "{{ messages[0].content }}"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        application(transformer(read_settings(TransformerSettings, prompt_format=folder, context_tokens=128)))
    return app


@functools.cache
def described(service: str) -> dict[str, Any]:
    """`openapi` of a service, in a process of its own."""
    done = subprocess.run(  # noqa: S603 - this file
        [sys.executable, __file__, f"openapi:{service}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class ApiPage(NamedTuple):
    """What a page has beside the OpenAPI description."""

    title: str
    intro: str
    wire: str
    """Module of the types."""
    tensors: tuple[str, str] | None = None
    """Names of the tables of tensors in that module."""


API = {
    "transformer": ApiPage(
        "Transformer",
        "The service that users talk to, port 8080. [API](../api.md) tells how the parts go together; this page is "
        "made from its [OpenAPI description](transformer.openapi.json) and has every field.",
        "transformer.wire",
        ("INPUT_TENSORS", "OUTPUT_TENSORS"),
    ),
    "vectorstore": ApiPage(
        "Vectorstore",
        "Search alone, port 8082 of a graph on one machine. [API](../api.md#search-alone) tells how the parts go "
        "together; this page is made from its [OpenAPI description](vectorstore.openapi.json) and has every field.",
        "vectorstore.wire",
    ),
    "ingest": ApiPage(
        "Ingest",
        "Documents into an index and out of it again, while everything runs: `python -m ingest.server`, port 8086 of a "
        "graph on one machine. This page is made from its [OpenAPI description](ingest.openapi.json).",
        "ingest.wire",
    ),
}


def api_page(service: str) -> str:
    """Routes and types of a service."""
    page, description = API[service], described(service)
    module = importlib.import_module(page.wire)
    schemas = _schemas(module, description)
    lines = [f"# {page.title}", "", page.intro]
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }
    own = {name for name, each in operations.items() if each.get("tags", [""])[0].islower()}
    for title, chosen in (("Routes", own), ("Routes of every KServe model", operations.keys() - own)):
        if chosen:
            lines += ["", f"## {title}", ""]
            lines += _entries(
                Entry(name, "", _summary(each), _exchange(each, schemas))
                for name, each in operations.items()
                if name in chosen
            )
    lines += ["", "What errors look like is told under [API](../api.md#errors)."]
    if page.tensors:
        lines += ["", "## Tensors", "", "Of `infer` and gRPC. A parameter is [1] for all questions or [n, 1]."]
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
"""KServe's own types, told in its documentation."""


def _schemas(module: types.ModuleType, description: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every type of the wire by its name: those of the module, and those that only the description has."""
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
    """What the Triton models take and give."""
    from predictor.servers.triton import LAYOUTS

    lines = ["# Triton models", "", "Embedder and predictor are models on Triton servers. Their tensors, as their "
             "`config.pbtxt` declares them; `STRING` is `BYTES` on the wire."]  # fmt: skip
    for room, what in (
        ("embedder", "One text per row. [The embedder's page](../rooms/embedder/README.md) tells what each means."),
        (
            "predictor",
            "The CPU model has the tensors of TensorRT-LLM's `llmapi` model. It is decoupled: it answers "
            "`generate_stream` and gRPC streams. [The predictor's page](../rooms/predictor/README.md) tells more.",
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
        "What the transformer sends to each kind of LLM server (`TRANSFORMER_PREDICTOR_LAYOUT`): the name of each "
        "parameter there. If versions differ, the newest is first. `openai` and `openai_chat` have OpenAI's names.",
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
    """Docstrings below the fields of a class and of what it inherits from, on one line each."""
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
"""Where in the site → what makes it."""


def main() -> None:
    """Prints what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", help=f"{', '.join(PAGES)}, or openapi:SERVICE")
    page = parser.parse_args().page
    if page.startswith("openapi:"):
        service = page.partition(":")[2]
        sys.argv = sys.argv[:1]  # KServe reads it
        sys.stdout.write(json.dumps(openapi(service)))
    else:
        sys.stdout.write(PAGES[page]())


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
