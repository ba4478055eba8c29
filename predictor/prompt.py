"""A model's prompt format: chat template, token counts, and escaping of control tokens in text."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from chassis.errors import InvalidRequestError
from predictor.errors import ModelFilesError
from predictor.tokenizer import TextTokenizer
from predictor.wire import Message

_BREAK = "​"
"""Zero-width space: invisible to readers, but it splits a token."""

_MARKER = re.compile(r"<\|[^|<>\s]{1,60}\|>|<<?/?[A-Za-z][\w-]{0,60}>>?|\[/?[A-Z_]{2,40}\]")
"""Text that looks like a control token. In some templates, such as Llama 2's [INST], markers are plain text."""

_LIKELY_MARKER = re.compile(f"{_MARKER.pattern}|</?s>")
"""Text that looks like a control token of a common model."""

_TEMPLATE_TOKENS, _TURN_TOKENS = 64, 8
"""Tokens that `EstimatedPromptFormat` adds for a chat template: once per prompt, and once per message.

The templates of SmolLM2 and Qwen2.5 need less: 30 tokens around the first user message, including their default system
message, and 6 around each further message.
"""

_PROBE = "probe"


CHARS_PER_TOKEN = 2.5
"""Characters per token of ASCII letters and spaces in `estimate_tokens`."""


def estimate_tokens(text: str) -> int:
    """An upper estimate of the number of tokens in `text`, for models whose tokenizer is not available.

    By script: 0.4 tokens for an ASCII letter or space (2.5 characters per token), 1 for a digit, a punctuation mark, or
    a letter of two bytes in UTF-8 (accented Latin, Greek, Cyrillic, Arabic), 2.5 for everything else (Chinese, Hangul,
    Thai, emoji), rounded up.

    Measured with the tokenizers of SmolLM2 and Qwen2.5 on XQuAD, 240 passages per language. The estimate is 2.0 times
    the number of tokens for English (both), 1.2 and 1.5 times for German, 1.3 and 3.3 times for Chinese, and at least
    1.06 times for every passage.
    """
    tokens = 0.0
    for character in text:
        if character < "\x80":
            tokens += 1 / CHARS_PER_TOKEN if character.isalpha() or character.isspace() else 1
        else:
            tokens += 1 if character < "\u0800" else 2.5
    return math.ceil(tokens)


class EstimatedPromptFormat:
    """Estimates token counts, for servers that apply the chat template if the model's tokenizer is not available.

    Replaces `PromptFormat`, except `render`.
    """

    context_tokens: int | None = None
    """Unknown: a setting must provide it."""
    stop: tuple[str, ...] = ()
    """Empty: the server knows its end-of-answer tokens."""

    def count(self, text: str) -> int:
        """An upper estimate of the number of tokens of `text`."""
        return estimate_tokens(text)

    def count_messages(self, messages: Sequence[Message]) -> int:
        """An upper estimate of the number of tokens of a prompt with these messages."""
        return _TEMPLATE_TOKENS + sum(_TURN_TOKENS + estimate_tokens(each["content"]) for each in messages)

    def escape(self, text: str) -> str:
        """`text` with a zero-width space inside everything that looks like a control token of a common model."""
        return _LIKELY_MARKER.sub(lambda found: found.group()[0] + _BREAK + found.group()[1:], text)


class PromptFormat:
    """Renders messages as the prompt text of one model. Safe for concurrent use.

    Args:
        tokenizer: the model's tokenizer.
        template: the model's Jinja chat template.
    """

    def __init__(self, tokenizer: TextTokenizer, template: str) -> None:
        self._tokenizer = tokenizer
        environment = _environment()
        try:
            self._template = environment.from_string(template)
        except jinja2.TemplateSyntaxError as error:
            raise ModelFilesError(f"The chat template is not a Jinja template: {error}") from error
        tokens = {"bos": tokenizer.bos, "eos": tokenizer.eos, "unk": tokenizer.unknown}
        self._special = {f"{name}_token": text or "" for name, text in tokens.items()}
        self._control = _control_texts(tokenizer, environment, template)
        self._starts = re.compile("(?=" + "|".join(map(re.escape, self._control)) + ")(.)", re.DOTALL)
        self._takes_system = self._renders_system()
        self.context_tokens = tokenizer.context_tokens
        """Maximum number of tokens of prompt and answer together; None if the model's files have no limit."""
        self.stop = tuple(sorted(text for i, text in tokenizer.added.items() if i in tokenizer.end_ids))
        """Control tokens that end an answer, for servers that do not know them."""

    @classmethod
    def load(cls, path: Path) -> PromptFormat:
        """Reads a Hugging Face folder: tokenizer.json, tokenizer_config.json, and chat_template.jinja if it exists.

        Raises:
            ModelFilesError: a file is missing or unreadable, or there is no chat template.
        """
        tokenizer = TextTokenizer.load(path)
        file = path / "chat_template.jinja"
        try:
            template = file.read_text(encoding="utf-8") if file.exists() else tokenizer.config.get("chat_template")
        except (OSError, ValueError) as error:
            raise ModelFilesError(f"{file} cannot be read: {error}") from error
        if isinstance(template, list):
            named = [each for each in template if isinstance(each, dict) and each.get("name") == "default"]
            template = named[0].get("template") if named else None
        if not isinstance(template, str):
            raise ModelFilesError(f"{path} has no chat template: add chat_template.jinja, or use an instruct model.")
        return cls(tokenizer, template)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt for `messages` (role, content), up to the beginning of the model's answer.

        If the template has no system role, the system message is put before the first user message.

        Raises:
            InvalidRequestError: the template does not allow this order of roles.
        """
        if not self._takes_system:
            messages = _without_system(messages)
        try:
            return self._render(messages)
        except jinja2.TemplateError as error:
            raise InvalidRequestError(
                f"The model's chat template rejects these messages: {error}", field="messages"
            ) from error

    def count(self, text: str) -> int:
        """Number of tokens of `text` as a part of a prompt."""
        return self._tokenizer.count(text)

    def count_messages(self, messages: Sequence[Message]) -> int:
        """Number of tokens of the prompt for `messages`."""
        return self.count(self.render(messages))

    def escape(self, text: str) -> str:
        """`text` with a zero-width space inside every control token and every marker of the template. Idempotent."""
        escaped = self._starts.sub(lambda found: found.group() + _BREAK, text)
        return self._escape_normalised(escaped) if self._tokenizer.matches_normalised else escaped

    def _escape_normalised(self, text: str) -> str:
        """Breaks up control tokens that appear only after the tokenizer has normalised the text."""
        tokenizer = self._tokenizer
        harmless = {i for i, token in tokenizer.added.items() if not token.strip() or token == tokenizer.unknown}
        while True:
            spans = [
                (start, end)
                for i, start, end in tokenizer.spans(text)
                if i in tokenizer.added and i not in harmless and end > start
            ]
            if not spans:
                return text
            start, end = spans[0]
            piece = text[start:end]
            # If the normaliser removes the break, drop a character, so that the loop ends.
            text = text[:start] + (piece[0] + _BREAK + piece[1:] if _BREAK not in piece else piece[1:]) + text[end:]

    def _render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        return self._template.render(
            messages=messages, add_generation_prompt=True, tools=None, documents=None, **self._special
        )

    def _renders_system(self) -> bool:
        try:
            rendered = self._render([{"role": "system", "content": _PROBE}, {"role": "user", "content": "?"}])
        except jinja2.TemplateError:
            return False
        return _PROBE in rendered


def _without_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    system = "\n\n".join(each["content"] for each in messages if each["role"] == "system")
    others = [each for each in messages if each["role"] != "system"]
    for i, each in enumerate(others):
        if system and each["role"] == "user":
            others[i] = {**each, "content": f"{system}\n\n{each['content']}"}
            break
    return others


def _control_texts(tokenizer: TextTokenizer, environment: jinja2.Environment, template: str) -> list[str]:
    """Texts that `escape` breaks up, longest first, so that the longest match is found."""
    parsed = environment.parse(template)
    literals = [node.data for node in parsed.find_all(jinja2.nodes.TemplateData)]
    literals += [node.value for node in parsed.find_all(jinja2.nodes.Const) if isinstance(node.value, str)]
    marks = {mark for text in literals for mark in _MARKER.findall(text)}
    tokens = {text for text in tokenizer.added.values() if text.strip()}
    return sorted(marks | tokens, key=lambda text: (-len(text), text))


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}` marks a model's text for training. Here it has no effect."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """Jinja with Hugging Face's settings for chat templates.

    Source: `transformers/utils/chat_template_utils.py`.
    """
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
