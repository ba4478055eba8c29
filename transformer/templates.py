"""Prompt templates: the texts around documents and question, one YAML file each (`TRANSFORMER_TEMPLATES`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from typing_extensions import Self

from chassis.errors import NotFoundError
from chassis.settings import SettingError
from transformer.configuration import read_configuration
from transformer.wire import TemplateCard

DEFAULT = "default"
"""Name of the template that the settings describe."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")
_BREAK = "\u200b"

_QUOTES = '"""'
_QUESTION = "\nQuestion:"
"""Precedes the question. Also a stop string, because small models continue with another question."""


def _with(*known: str, needed: tuple[str, ...]) -> AfterValidator:
    """A validator of texts with placeholders: `known` ones only, and each of `needed` once."""

    def check(text: str) -> str:
        found = _PLACEHOLDER.findall(text)
        for name in found:
            if name not in known:
                raise ValueError(f"{{{name}}} is unknown; use {' and '.join(f'{{{each}}}' for each in known)}")
        for name in needed:
            if found.count(name) != 1:
                raise ValueError(f"{{{name}}} must be there once, not {found.count(name)} times")
        return text

    return AfterValidator(check)


class PromptTemplate(BaseModel):
    """The texts of a prompt. Markers such as {context} are replaced; all other text stays as it is."""

    model_config = ConfigDict(extra="forbid")

    description: str = Field(default="", max_length=500, description="For the list of templates.")
    languages: list[Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]] = Field(
        default_factory=list, description="Languages of its texts, ISO 639. For the list of templates."
    )
    system: str = Field(description="The system message of questions with documents.")
    plain_system: str | None = Field(
        default=None, description="That of questions without documents. Default: TRANSFORMER_PLAIN_SYSTEM_PROMPT."
    )
    instruction: str | None = Field(
        default=None, description="Instruction between documents and question. Instead of `message`."
    )
    message: Annotated[str, _with("context", "question", needed=("context", "question"))] | None = Field(
        default=None, description="The whole user message, with {context} and {question}. Instead of `instruction`."
    )
    document: Annotated[str, _with("number", "title", "text", needed=("text",))] = Field(
        default=f"[{{number}}] {{title}}\n{_QUOTES}\n{{text}}\n{_QUOTES}",
        description="A document in {context}: {text}, and {number} and {title} if the LLM should see them.",
    )
    stop: list[Annotated[str, StringConstraints(min_length=1, max_length=256)]] | None = Field(
        default=None, max_length=8, description='Texts that end an answer. Default with `instruction`: "\\nQuestion:".'
    )

    @model_validator(mode="after")
    def _one_message(self) -> Self:
        if (self.instruction is None) == (self.message is None):
            raise ValueError("give either instruction or message")
        return self

    @property
    def user_message(self) -> str:
        """The user message, with {context} and {question}."""
        return self.message or f"{{context}}\n\n{self.instruction}{_QUESTION} {{question}}"

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        if self.stop is None:
            return () if self.instruction is None else (_QUESTION,)
        return tuple(self.stop)

    def question(self, context: str, question: str) -> str:
        """The user message of a question with documents."""
        return filled(self.user_message, {"context": context, "question": question})

    def block(self, number: int, title: str, text: str) -> str:
        """A document with its number, as data: what closes it is broken up inside it."""
        head, _, tail = self.document.partition("{text}")
        label = {"number": str(number), "title": self._data(" ".join(title.split()))}
        return re.sub(" +\n", "\n", filled(head, label)) + self._data(text) + filled(tail, label)

    def reference(self, number: int, title: str) -> str:
        """A document that stands further up in the prompt."""
        return self._data(f"[{number}] {' '.join(title.split())}".rstrip()) + " (see above)"

    def bare_block(self, text: str) -> str:
        """A text of the caller as a document without number and title. Lines that have only these are left out."""
        lines = [line for line in self.document.split("\n") if not _PLACEHOLDER.search(line) or _says_more(line)]
        return filled("\n".join(lines), {"number": "", "title": "", "text": self._data(text)})

    def _data(self, text: str) -> str:
        """The text without what closes a document."""
        fence = self.document.partition("{text}")[2].strip()
        if _QUOTES in fence:
            return text.replace(_QUOTES, "'''")
        return text.replace(fence, fence[0] + _BREAK + fence[1:]) if fence else text


def _says_more(line: str) -> bool:
    """Whether a line has letters, or the text, besides number and title."""
    return "{text}" in line or any(map(str.isalpha, _PLACEHOLDER.sub("", line)))


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with the values of its placeholders. Placeholders inside values are not replaced."""
    return _PLACEHOLDER.sub(lambda found: values.get(found.group(1), found.group()), text)


class Templates:
    """The templates of the service, by name, with the one of the settings."""

    def __init__(self, own: PromptTemplate, others: Mapping[str, PromptTemplate]) -> None:
        self._all = {DEFAULT: own, **others}

    def get(self, name: str) -> PromptTemplate:
        """The template of this name. Raises NotFoundError, with all names, if there is none."""
        if name not in self._all:
            known = ", ".join(map(repr, self._all))
            raise NotFoundError(f"template: there is no {name!r}. This service has {known}.", field="template")
        return self._all[name]

    def cards(self) -> list[TemplateCard]:
        """All templates, the one of the settings first."""
        return [
            TemplateCard(name=name, description=template.description, languages=template.languages)
            for name, template in self._all.items()
        ]


def read_templates(folder: Path) -> dict[str, PromptTemplate]:
    """The templates of a folder: name of the file, without `.yaml`, `.yml` or `.json` → template.

    Raises:
        SettingError: there is no such folder, or no template in it, or a file is invalid. The message names the file,
            and the line or the field.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in (".yaml", ".yml", ".json"))
    if not files:
        raise SettingError(f"TRANSFORMER_TEMPLATES: {folder} has no template, a file such as short.yaml.")
    return {file.stem: read_configuration(file, PromptTemplate) for file in files}
