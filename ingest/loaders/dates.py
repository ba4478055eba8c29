"""Parses dates in common notations."""

from __future__ import annotations

import re
from datetime import date

from ingest.loaders.document import MetadataValue, one_line

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_PATTERNS = tuple(
    map(
        re.compile,
        (
            r"(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})(?!\d)",
            r"(?P<year>\d{4})[/.](?P<month>\d{1,2})[/.](?P<day>\d{1,2})(?!\d)",
            r"D:(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})",
            r"(?P<month>[A-Za-z]{3,9})\.?\s+(?P<day>\d{1,2})(?:st|nd|rd|th)?,?\s+(?P<year>\d{4})(?!\d)",
            r"(?P<day>\d{1,2})(?:st|nd|rd|th)?\.?\s+(?P<month>[A-Za-z]{3,9})\.?,?\s+(?P<year>\d{4})(?!\d)",
        ),
    )
)
_WEEKDAY = re.compile(r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?,?\s+", re.IGNORECASE)


def parse_date(text: str) -> date | None:
    """The date at the beginning of `text`, without regard to time zones; None if there is none.

    Reads `June 20, 2023`, `20 June 2023`, ISO 8601 with or without a time, JCR's `{Date}…` and PDF's `D:…`. Ambiguous
    dates such as `06/07/2023` are not guessed.
    """
    text = _WEEKDAY.sub("", text.strip()[:64].removeprefix("{Date}"), count=1)
    match = next((match for pattern in _PATTERNS if (match := pattern.match(text))), None)
    if match is None:
        return None
    try:
        return date(int(match["year"]), _month(match["month"]), int(match["day"]))
    except ValueError:
        return None


def _month(text: str) -> int:
    """The number of a month from digits, a name or an abbreviation; 0 if it is none."""
    if text.isdigit():
        return int(text)
    return next((number for number, name in enumerate(_MONTHS, start=1) if name.startswith(text.lower())), 0)


def date_metadata(text: str) -> dict[str, MetadataValue]:
    """Filterable metadata: `date` (ISO 8601), `year` and `date_number` (20230620, comparable).

    If the date cannot be parsed, only `date`, unchanged. Blank text gives no metadata.
    """
    day = parse_date(text)
    if day is not None:
        return {"date": day.isoformat(), "year": day.year, "date_number": int(day.strftime("%Y%m%d"))}
    written = one_line(text, 64)
    return {"date": written} if written else {}
