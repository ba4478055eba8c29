"""The file with several models (`TRANSFORMER_MODELS_FILE`): what it may say, and how it is read.

Keys are never in the file: an option such as `api_key` is given as `api_key_file`, the path of a mounted Secret, or as
`api_key_env`, the name of an environment variable.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, StringConstraints

from chassis.settings import BaseUrl, SettingError
from predictor.client import LlmServerName
from transformer.configuration import read_configuration
from transformer.settings import TransformerSettings
from transformer.wire import AnswerMode
from vectorstore.wire import MAX_NUM_DOCS

_ENV, _FILE = "_env", "_file"

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.:-]{0,127}$")]


class ModelDefaults(BaseModel):
    """Parameters of a question that sets none. Absent ones are the service's settings."""

    model_config = ConfigDict(extra="forbid")

    answers: AnswerMode | None = None
    num_docs: int | None = Field(default=None, ge=0, le=MAX_NUM_DOCS)
    max_tokens: int | None = Field(default=None, ge=0, le=131_072)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_k: int | None = Field(default=None, ge=0, le=1000)
    top_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)


class ModelEntry(BaseModel):
    """A model of the file. Relative paths begin at the file's folder."""

    model_config = ConfigDict(extra="forbid")

    name: ModelName = Field(description="Value of `model` in requests. The service's own name replaces its predictor.")
    display_name: str = Field("", max_length=200, description="Name that people see. Default: `name`.")
    server: LlmServerName = Field(description="LLM server, as TRANSFORMER_PREDICTOR_LAYOUT.")
    url: BaseUrl = Field(description="Base URL of the server.")
    model: str | None = Field(None, description="Name of the model on its server. Default: the server's own.")
    options: dict[str, Any] | None = Field(
        default_factory=dict,
        description="Settings of the server, by the end of their variables: `health_path` for "
        "PREDICTOR_OPENAI_HEALTH_PATH. The variables themselves have no effect on this model.",
    )
    forward_authorization: bool = Field(False, description="Whether the server gets callers' Authorization header.")
    prompt_format: Path | None = Field(
        None, description="Folder with the tokenizer. Default: tokens are estimated, which needs `context_tokens`."
    )
    context_tokens: int | None = Field(None, ge=128, description="Window in tokens. Default: the tokenizer's.")
    max_prompt_tokens: int | None = Field(
        None, ge=128, description="Maximum tokens of a prompt without earlier turns. Default: the service's."
    )
    max_history_tokens: int | None = Field(
        None, ge=0, description="Maximum tokens of earlier turns in a prompt. Default: the service's."
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Maximum of `max_tokens` in requests. Default: no limit but the window."
    )
    template: str | None = Field(None, description="Name of its prompt template. Default: TRANSFORMER_TEMPLATE.")
    defaults: ModelDefaults = Field(
        default_factory=ModelDefaults,
        description="Parameters of questions that set none: `answers`, `num_docs`, `max_tokens`, `temperature`, "
        "`top_k`, `top_p`, the penalties. Default: the service's.",
    )

    _where: str = PrivateAttr("")

    @property
    def where(self) -> str:
        """File and position of the entry, for messages; empty for the model of the settings."""
        return self._where

    def setting(self, field: str) -> str:
        """Name of a field for messages: the variable, or the place in the file."""
        return f"{self._where}.{field}" if self._where else f"TRANSFORMER_{_VARIABLES.get(field, field).upper()}"


_VARIABLES = {"server": "predictor_layout"}
"""Field of an entry → the setting, if the names differ."""


def own_model(settings: TransformerSettings) -> ModelEntry:
    """The model that the settings describe."""
    return ModelEntry.model_construct(
        name=settings.model_name,
        display_name=settings.display_name,
        server=settings.predictor_layout,
        url=settings.predictor_url,
        model=settings.predictor_model,
        options=None,
        forward_authorization="predictor" in settings.forward_authorization,
        prompt_format=settings.prompt_format,
        context_tokens=settings.context_tokens,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_history_tokens=settings.max_history_tokens,
        template=settings.template,
        defaults=ModelDefaults(),
    )


class ModelsFile(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid")

    models: list[ModelEntry] = Field(min_length=1, max_length=100)


def read_models(path: Path) -> list[ModelEntry]:
    """The models of a YAML or JSON file, with absolute paths and with the keys of environment variables.

    Raises:
        SettingError: the file cannot be read or is invalid. The message names the file and the line or the field, and
            contains no key.
    """
    entries = read_configuration(path, ModelsFile).models
    names = [entry.name for entry in entries]
    for number, entry in enumerate(entries):
        entry._where = f"{path}: models[{number}]"
        if entry.name in names[:number]:
            raise SettingError(f"{entry.setting('name')}: there is a model {entry.name!r} already.")
        entry.options = _resolved(entry.options or {}, path.parent, entry.setting("options"))
        if entry.prompt_format is not None:
            entry.prompt_format = path.parent / entry.prompt_format
    return entries


def _resolved(options: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """The options with absolute paths, and with the values of variables instead of their names."""
    resolved: dict[str, Any] = {}
    for name, value in options.items():
        if name.endswith("_key") or name in ("token", "password"):
            raise SettingError(
                f"{where}.{name}: a key does not belong into this file. Name a file, {name}{_FILE}, or a variable, "
                f"{name}{_ENV}."
            )
        if name.endswith(_ENV):
            secret = os.environ.get(str(value))
            if not secret:
                raise SettingError(f"{where}.{name}: the environment variable {value} is not set.")
            resolved[name.removesuffix(_ENV)] = SecretStr(secret)
        elif name.endswith(_FILE) and isinstance(value, str):
            resolved[name] = folder / value
        else:
            resolved[name] = value
    return resolved
