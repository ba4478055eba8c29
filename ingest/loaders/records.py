"""Records of CSV, JSON and JSON Lines: chooses the fields with text, title, URL and date, and builds documents."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import MAX_METADATA_CHARS, Limits, ParsedDocument, flat_values, one_line
from ingest.loaders.file import SourceFile
from ingest.loaders.html import looks_like_html, render_fragment

Record = Mapping[str, object]

_TEXT = ("content", "text", "body", "pagecontent", "contents", "passage", "article", "document", "context")
_SHORT_TEXT = ("description", "summary", "abstract", "teaser")
"""Names of the text, if a record has no field of `_TEXT`."""
_SUMMARY = _SHORT_TEXT[1:]
_TITLE = ("title", "headline", "name", "subject", "heading")
_URL = ("url", "uri", "permalink", "link", "reluri", "href", "sourceurl")
_DATE = ("date", "published", "publishedat", "publishdate", "displaydate", "created", "createdat", "lastmod")
EVALUATION = frozenset(("question", "questions", "answer", "answers", "qas"))
"""Fields with questions about a record's text. They are not indexed, because an evaluation would find the questions."""
KNOWN_NAMES = frozenset((*_TEXT, *_SHORT_TEXT, *_TITLE, *_URL, *_DATE, *EVALUATION))
"""Names of fields with a role, as `plain_name` returns them."""
_PROSE_CHARS, _PROSE_WORDS = 40, 6
"""A shorter string is metadata, unless no field has a longer one."""
_SHORT_PROSE_CHARS, _SHORT_PROSE_WORDS = 20, 4
_LONGEST_WORD = 30
"""Maximum mean length of words in prose. Longer: for example Base64."""
_ROWS_PER_DOCUMENT = 500
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Fields:
    """The roles of a record's fields. Fields without a role are metadata."""

    text: tuple[str, ...]
    """In the order of the text. Empty if no field has prose."""
    labelled: frozenset[str]
    """Fields of `text` that are preceded by their names."""
    title: str | None
    url: str | None
    date: str | None

    def document(
        self, file: SourceFile, key: str, record: Record, limits: Limits, *, title: str = ""
    ) -> ParsedDocument | None:
        """The document of a record; None if it has no text.

        Args:
            file: the record's file.
            key: as `ParsedDocument.key`.
            record: its fields.
            limits: `max_text_chars` applies.
            title: for a record without a title.
        """
        builder = TextBuilder(limits)
        texts = {name: text for name in self.text if (text := text_of(record.get(name))).strip()}
        for name, text in texts.items():
            # Skip a text that another one contains, such as a summary that begins the article.
            if not any(text.strip() in other for other in texts.values() if len(other) > len(text)):
                write_text(text, builder, _label(name) if name in self.labelled else "")
        used = self._used
        others = {name: each for name, each in record.items() if name not in used and plain_name(name) not in _URL}
        for name, value in others.items():
            # Too long for the metadata.
            if isinstance(value, str) and len(value) > MAX_METADATA_CHARS and is_prose(value):
                write_text(value, builder, _label(name))
        own_title = html.unescape(text_of(record.get(self.title or "")))
        return builder.document(
            file.source,
            key,
            own_title if own_title.strip() else title,
            url=text_of(record.get(self.url or "")),
            values=flat_values(others),
            date=text_of(record.get(self.date or "")),
        )

    def keeps(self, name: str) -> bool:
        """Whether a field is part of the document. Questions and answers about the text are not."""
        return name in self._used or plain_name(name) not in EVALUATION

    @property
    def _used(self) -> set[str | None]:
        return {*self.text, self.title, self.url, self.date}


def choose_fields(records: Sequence[Record]) -> Fields:
    """The roles of the fields of similar records: by name, in any case and notation, else by value.

    Every field with prose is text. Questions and answers are text only if there is no other text.
    """
    names: dict[str, str] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, str) or text_of(value):
                names.setdefault(plain_name(name), name)

    def named(candidates: Iterable[str]) -> list[str]:
        return [names[name] for name in candidates if name in names and _share(records, names[name], str.strip) > 0]

    main = named(_TEXT)
    is_faq = not main and {"question", "answer"} <= set(names)
    others = [name for plain, name in names.items() if plain not in EVALUATION and name not in main]
    title = next(iter(named(("question",) if is_faq else _TITLE)), None)
    url, date = next(iter(named(_URL)), None), next(iter(named(_DATE)), None)
    prose = [name for name in others if name not in (title, url, date) and _share(records, name, is_prose) > 0.5]
    if is_faq:
        main = [names["answer"]]
    elif not main and not prose:
        main = named(_SHORT_TEXT)[:1] or [
            name for name in others if name not in (url, date) and _share(records, name, _is_short_prose) > 0.5
        ]
        title = None if title in main else title
    labelled = frozenset((*main[1:], *prose) if main else prose if len(prose) > 1 else ())
    summary = [name for name in named(_SUMMARY) if name not in main]
    text = (*summary, *main, *(name for name in prose if name not in summary)) if main or prose else ()
    return Fields(text, labelled - set(summary), title, url, date)


def plain_name(name: str) -> str:
    """A field's name for comparison: `Page Content`, `page_content` and `pageContent` become equal."""
    return _NOT_ALPHANUMERIC.sub("", name).lower()


def text_of(value: object) -> str:
    """The text of a field: a string, a list of strings or `{"text": …}`, or WordPress's `{"rendered": …}`."""
    if isinstance(value, dict):
        value = value.get("rendered")
    if isinstance(value, list):
        items = [item.get("text") if isinstance(item, dict) else item for item in value]
        texts = [item for item in items if isinstance(item, str)]
        return "\n\n".join(texts) if len(texts) == len(items) else ""
    return value if isinstance(value, str) else ""


def is_prose(text: str) -> bool:
    """Whether a string is prose, and not a value for filters."""
    return _has_words(text, _PROSE_CHARS, _PROSE_WORDS)


def write_text(text: str, builder: TextBuilder, label: str = "") -> None:
    """Appends a field with plain text or HTML, after its label if it has one."""
    if looks_like_html(text):
        builder.paragraph(f"{label}:" if label else "")
        render_fragment(text, builder)
    else:
        builder.paragraph((f"{label}: " if label else "") + html.unescape(text))


def rows_as_text(
    file: SourceFile, rows: Iterable[Record], limits: Limits, *, key: str = "", title: str = ""
) -> Iterator[ParsedDocument]:
    """Documents of up to 500 records without prose, one per line: `Month: January; Revenue: 120`.

    Args:
        file: the records' file.
        rows: the records.
        limits: `max_text_chars` applies.
        key: position of the records in the file.
        title: title of the documents. Default: the file's name.
    """
    rows = iter(rows)
    first = 1
    while some := list(itertools.islice(rows, _ROWS_PER_DOCUMENT)):
        builder = TextBuilder(limits)
        builder.paragraph("\n".join(map(_line, some)))
        place = f"{key} rows {first}".strip()
        document = builder.document(file.source, place, title or file.stem, url=None, values={"row": first}, date="")
        if document is not None:
            yield document
        first += len(some)


def _line(row: Record) -> str:
    values = ((name, " ".join(str(value).split())) for name, value in flat_values(row).items())
    return "; ".join(f"{_label(name)}: {value}" for name, value in values if value)


def _label(name: str) -> str:
    name = one_line(name.replace("_", " "), 100)
    return name[:1].upper() + name[1:]


def _share(records: Sequence[Record], name: str, wanted: Callable[[str], object]) -> float:
    """Share of the records with a text in this field whose text satisfies `wanted`."""
    texts = [text for record in records if (text := text_of(record.get(name))).strip()]
    return sum(1 for text in texts if wanted(text)) / max(len(texts), 1)


def _is_short_prose(text: str) -> bool:
    return _has_words(text, _SHORT_PROSE_CHARS, _SHORT_PROSE_WORDS)


def _has_words(text: str, chars: int, least_words: int) -> bool:
    sample = text[:2000].strip()
    if "://" in sample.split(" ", 1)[0]:
        return False
    if not sample[:100].isascii() and len(sample) >= chars / 2:
        # Chinese, Japanese and Thai have no spaces between words.
        return True
    words = sample.split()
    return len(sample) >= chars and len(words) >= max(least_words, len(sample) / _LONGEST_WORD)
