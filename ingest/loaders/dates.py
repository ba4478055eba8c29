"""Dates as people write them."""

from __future__ import annotations

import re
from datetime import date

from ingest.loaders.document import MetadataValue, one_line

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            ("january", "jan"),
            ("february", "feb"),
            ("march", "mar"),
            ("april", "apr"),
            ("may",),
            ("june", "jun"),
            ("july", "jul"),
            ("august", "aug"),
            ("september", "sept", "sep"),
            ("october", "oct"),
            ("november", "nov"),
            ("december", "dec"),
        ),
        start=1,
    )
    for name in names
}
_ISO = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?!\d)")
_ISO_SLASHES = re.compile(r"(\d{4})[/.](\d{1,2})[/.](\d{1,2})(?!\d)")
_PDF = re.compile(r"D:(\d{4})(\d{2})(\d{2})")
_MONTH_FIRST = re.compile(r"([A-Za-z]{3,9})\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(\d{4})(?!\d)")
_DAY_FIRST = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?\.?\s+([A-Za-z]{3,9})\.?,?\s+(\d{4})(?!\d)")
_WEEKDAY = re.compile(r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?,?\s+", re.IGNORECASE)


def parse_date(text: str) -> date | None:
    """The day that `text` begins with, as written, whatever its time zone; None where it cannot be told.

    Reads `June 20, 2023`, `20 June 2023`, ISO 8601 with or without a time, JCR's `{Date}…` and PDF's `D:…`. Dates such
    as `06/07/2023`, which mean different days in different countries, are not guessed.
    """
    text = _WEEKDAY.sub("", text.strip()[:64].removeprefix("{Date}"), count=1)
    if (match := _ISO.match(text) or _ISO_SLASHES.match(text) or _PDF.match(text)) is not None:
        year, month, day = (int(part) for part in match.groups())
    elif (match := _MONTH_FIRST.match(text)) is not None:
        year, month, day = int(match[3]), _MONTHS.get(match[1].lower(), 0), int(match[2])
    elif (match := _DAY_FIRST.match(text)) is not None:
        year, month, day = int(match[3]), _MONTHS.get(match[2].lower(), 0), int(match[1])
    else:
        return None
    try:
        return date(year, month, day)
    except ValueError:
        return None


def date_metadata(text: str) -> dict[str, MetadataValue]:
    """Filterable metadata: `date` (ISO 8601), `year` and `date_number` (20230620, comparable).

    Only `date`, as written, where it cannot be read; nothing where there is none.
    """
    day = parse_date(text)
    if day is not None:
        return {"date": day.isoformat(), "year": day.year, "date_number": int(day.strftime("%Y%m%d"))}
    written = one_line(text, 64)
    return {"date": written} if written else {}
