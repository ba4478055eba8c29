"""Mail: messages (EML) and mailboxes (mbox), with their attachments."""

from __future__ import annotations

import contextlib
import dataclasses
import email
import email.policy
import mailbox
import re
from collections.abc import Iterator
from email.message import EmailMessage, Message, MIMEPart
from email.utils import parsedate_to_datetime
from functools import partial

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.contained import load_contained
from ingest.loaders.document import Limits, Notice, ParsedDocument, one_line
from ingest.loaders.encodings import Utf8Counts, encoding_of
from ingest.loaders.file import SourceFile
from ingest.loaders.html import render_fragment

_BEGINS_MAIL = re.compile(
    rb"(?:From [^\n]{1,200}\n)?"
    rb"(?:Return-Path|Received|Delivered-To|Message-ID|MIME-Version|From|Date|Subject|X-[\w-]+):.*?^(?:From|Subject):",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)
_HEAD_BYTES = 65_536
_BEGINS_MAILBOX = re.compile(rb"From [^\n]{1,200}\n[\w-]+:")


class MailLoader:
    """Messages and mailboxes."""

    suffixes = (".eml", ".mbox")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the head begins with headers of a message."""
        return _BEGINS_MAIL.match(head) is not None

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document per message, then those of its attachments."""
        if _BEGINS_MAILBOX.match(file.head()) is None:
            yield from _message(file, "", file.read(limits), limits)
            return
        file.check_rows_size(limits)
        with contextlib.closing(mailbox.mbox(file.path, create=False)) as messages:
            keys: set[str] = set()
            for number, place in enumerate(messages.iterkeys(), start=1):
                data = messages.get_bytes(place)
                identifier = one_line(str(email.message_from_bytes(data[:_HEAD_BYTES])["Message-ID"] or ""))
                key = identifier if identifier and identifier not in keys else f"#{number}"
                keys.add(key)
                try:
                    yield from _message(file, key, data, limits)
                except SkippedFileError as error:
                    yield Notice(f"message {number}: {error}")


def _message(file: SourceFile, key: str, data: bytes, limits: Limits) -> Iterator[ParsedDocument | Notice]:
    """The document of a message, and those of its attachments."""
    if len(data) > limits.max_file_bytes:
        raise SkippedFileError(f"larger than {limits.max_file_bytes:,} bytes (INGEST_MAX_FILE_BYTES)")
    message = email.message_from_bytes(data, policy=email.policy.default)
    builder = TextBuilder(limits)
    headers = {name: one_line(str(message.get(name, ""))) for name in ("Subject", "From", "To", "Cc", "Date")}
    if not any(headers.values()):
        raise SkippedFileError("not a message: it has no headers")
    builder.paragraph("\n".join(f"{name}: {text}" for name, text in headers.items() if text and name != "Subject"))
    _write_body(message, builder)
    document = builder.document(
        file.source,
        key,
        headers["Subject"],
        url=None,
        values={"from": headers["From"], "to": headers["To"]},
        date=_date(headers["Date"]),
    )
    if document is not None:
        yield document
    attachments = ((_name(part), partial(_bytes, part)) for part in message.iter_attachments())
    for item in load_contained(file, attachments, limits):
        if isinstance(item, ParsedDocument) and key:
            item = dataclasses.replace(item, key=f"{key}/{item.key}")
        yield item


def _write_body(message: EmailMessage, builder: TextBuilder) -> None:
    """Appends the plain text, or else the HTML."""
    for kind in ("plain", "html"):
        part = message.get_body((kind,))
        if part is None or not (data := _bytes(part)).strip():
            continue
        encoding = encoding_of(data, Utf8Counts.of([data]), part.get_content_charset() or "")
        text = data.decode(encoding.codec, "replace")
        if kind == "html":
            render_fragment(text, builder)
        else:
            builder.paragraph(text)
        return


def _bytes(part: MIMEPart) -> bytes:
    content = part.get_payload(decode=True)
    if isinstance(content, bytes):
        return content
    # An attached message.
    inner = part.get_payload()
    first = inner[0] if isinstance(inner, list) and inner else None
    return first.as_bytes() if isinstance(first, Message) else b""


def _name(part: MIMEPart) -> str:
    """The name of an attachment."""
    if part.get_content_type() == "message/rfc822":
        return "message.eml"
    return one_line(part.get_filename() or "attachment")


def _date(text: str) -> str:
    try:
        return parsedate_to_datetime(text).date().isoformat()
    except ValueError:
        return text


LOADER = MailLoader()
