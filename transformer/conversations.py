"""Conversations: the earlier turns of a question, with the passages that they were answered from.

The signed field `turns` of an answer has the questions and answers so far and names their passages. The caller sends it
with the next question, so the service stores no conversation, and any replica with the same secret can continue it. For
callers that send only messages, the field is cached under a hash of the caller and the messages.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from chassis.context import CallContext
from chassis.errors import InvalidRequestError
from transformer.question import Question
from transformer.wire import MAX_MESSAGES, MAX_TURNS_CHARS, Message
from vectorstore.wire import Passage

_FORMAT = b"turns-1 "
"""Part of every signature, so that fields of another format are rejected."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

_MAX_PASSAGES = 200
"""Maximum number of passages in a conversation. All are read again for the next question."""

_MARKER = re.compile(r"\s*\[[\d,\s-]+\]")
"""Source markers. They are ignored, because the check may correct them after the text was streamed."""

PassageKey = tuple[str, str, str, int, int]
"""Collection, index version, document, and the span in its text."""

TurnKind = Literal["documents", "context", "refused", "plain", "unknown"]
"""Basis of an answer: passages, the caller's `context`, nothing because it was refused, or the LLM alone. `unknown`:
only the messages are known."""


@dataclass(frozen=True, slots=True)
class ShownPassage:
    """A passage in the prompt, now or in an earlier turn."""

    number: int
    """Source number; constant within a conversation."""
    label: str
    """Title and headings."""
    collection: str
    index_version: str
    document_id: str
    start: int
    """Offset in the document's text."""
    end: int
    text: str = ""
    """Empty if it is not read yet, or no longer stored."""

    @property
    def key(self) -> PassageKey:
        """Identifies the passage in all index versions."""
        return self.collection, self.index_version, self.document_id, self.start, self.end


def key_of(passage: Passage) -> PassageKey:
    """As `ShownPassage.key`."""
    span = passage.span
    return passage.collection, passage.index_version, passage.document_id, span.start, span.end


def shown(passage: Passage, number: int) -> ShownPassage:
    """A passage with its source number."""
    return ShownPassage(
        number,
        " — ".join(dict.fromkeys(filter(None, [passage.title, *passage.heading_path]))),
        *key_of(passage),
        passage.text,
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer. One of them is None if the caller's messages do not alternate."""

    question: str | None
    answer: str | None
    kind: TurnKind = "unknown"
    passages: tuple[ShownPassage, ...] = ()
    """In the order of their numbers."""

    @property
    def complete(self) -> bool:
        """Whether everything that the answer is based on is known."""
        return self.kind in ("refused", "plain") or (self.kind == "documents" and all(p.text for p in self.passages))

    def messages(self) -> list[Message]:
        """The turn as messages."""
        both: list[tuple[Literal["user", "assistant"], str | None]] = [
            ("user", self.question),
            ("assistant", self.answer),
        ]
        return [Message.model_construct(role=role, content=text) for role, text in both if text is not None]


class Conversations:
    """Signs and reads `turns`, and caches them for callers that send only messages. Not thread-safe."""

    def __init__(self, secret: bytes, *, limit: int, ttl_s: float) -> None:
        """Creates an empty cache.

        Args:
            secret: key of the signatures; replicas need the same.
            limit: maximum number of cached entries. The least recently used entry is dropped.
            ttl_s: seconds after its last use at which an entry is dropped.
        """
        self._secret = secret
        self._limit = limit
        self._ttl_s = ttl_s
        self._kept: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        """Hash of caller and messages → expiry in `time.monotonic()` seconds, and turns."""

    def __len__(self) -> int:
        return len(self._kept)

    def recall(self, question: Question, ctx: CallContext) -> list[Turn]:
        """The turns before a question, oldest first, without the texts of their passages.

        Raises:
            InvalidRequestError: `turns` was not issued by this service, or does not match the request's messages.
        """
        sent = question.grounding.turns
        if not sent:
            kept = self._find(self._key(question.history, ctx)) if question.history else None
            return self._read(kept) if kept is not None else _paired(question.history)
        turns = self._read(sent)
        expected = [(message.role, _normalised(message.content)) for turn in turns for message in turn.messages()]
        given = [(message.role, _normalised(message.content)) for message in question.history]
        if given and given[-len(expected) :] != expected:
            raise InvalidRequestError(
                "turns: belongs to other messages than those of this request. Send the turns of the answer that these "
                "messages end with, or leave turns out.",
                field="turns",
            )
        return turns

    def remember(self, question: Question, turns: Sequence[Turn], ctx: CallContext) -> str | None:
        """The field `turns` for the next question, with as many of the last turns as fit; None if none fits.

        Args:
            question: the last question, with the complete history.
            turns: oldest first, including the last one. The oldest may be missing.
            ctx: the request's context.
        """
        turns = turns[-MAX_MESSAGES // 2 :]
        while (
            sum(len(turn.passages) for turn in turns) > _MAX_PASSAGES
            or len(field := self._sign(turns)) > MAX_TURNS_CHARS
        ):
            turns = turns[1:]
        if not turns:
            return None
        if not question.grounding.turns:
            self._keep(self._key([*question.history, *turns[-1].messages()], ctx), field)
        return field

    def _sign(self, turns: Sequence[Turn]) -> str:
        content = [
            (
                turn.question,
                turn.answer,
                turn.kind,
                [(one.number, one.label, *one.key) for one in turn.passages],
            )
            for turn in turns
        ]
        packed = zlib.compress(_ENCODER.encode(content).encode(errors="surrogatepass"))
        return base64.urlsafe_b64encode(self._mac(packed) + packed).decode()

    def _read(self, field: str) -> list[Turn]:
        try:
            signed = base64.b64decode(field, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            signed = b""
        mac, packed = signed[:32], signed[32:]
        if not hmac.compare_digest(mac, self._mac(packed)):
            raise InvalidRequestError(
                "turns: was not issued by this service, or before its last start. Send the field of the previous "
                "answer unchanged, or the conversation's messages without turns.",
                field="turns",
            )
        return [
            Turn(question, answer, kind, tuple(ShownPassage(*passage) for passage in passages))
            for question, answer, kind, passages in json.loads(zlib.decompress(packed))
        ]

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._secret, _FORMAT + content, "sha256")

    def _key(self, messages: Iterable[Message], ctx: CallContext) -> bytes:
        who: object = ctx.headers.get("authorization", "")
        if ctx.principal is not None:  # whose tokens change
            who = [ctx.principal.subject, sorted(ctx.principal.groups)]
        caller = hashlib.sha256(json.dumps(who).encode()).hexdigest()
        said = [(message.role, _normalised(message.content)) for message in messages]
        return self._mac(json.dumps([caller, said]).encode())

    def _find(self, key: bytes) -> str | None:
        self._drop_expired()
        expiry_and_field = self._kept.pop(key, None)
        if expiry_and_field is None:
            return None
        self._keep(key, expiry_and_field[1])
        return expiry_and_field[1]

    def _keep(self, key: bytes, field: str) -> None:
        self._drop_expired()
        self._kept[key] = (time.monotonic() + self._ttl_s, field)
        self._kept.move_to_end(key)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def _drop_expired(self) -> None:
        # Oldest first: each use renews the expiry and moves the entry to the end.
        now = time.monotonic()
        while self._kept and next(iter(self._kept.values()))[0] <= now:
            self._kept.popitem(last=False)


def with_texts(turns: Sequence[Turn], texts: Mapping[tuple[str, str, str], str]) -> list[Turn]:
    """The turns with the texts of their passages.

    Args:
        turns: without texts.
        texts: collection, index version and document id → the document's text; empty if it is no longer stored.
    """
    return [
        replace(
            turn,
            passages=tuple(replace(one, text=texts[one.key[:3]][one.start : one.end]) for one in turn.passages),
        )
        for turn in turns
    ]


def _paired(messages: Sequence[Message]) -> list[Turn]:
    turns: list[Turn] = []
    for message in messages:
        if message.role == "user":
            turns.append(Turn(message.content, None))
        elif turns and turns[-1].answer is None:
            turns[-1] = replace(turns[-1], answer=message.content)
        else:
            turns.append(Turn(None, message.content))
    return turns


def _normalised(text: str) -> str:
    return " ".join(_MARKER.sub("", text).split())
