"""Detects the encoding of a text file."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import charset_normalizer
import webencodings

from ingest.errors import SkippedFileError

REPLACEMENT = "\ufffd"
SNIFFED_BYTES = 8_192
"""Number of bytes at the beginning of a file that are searched for its format and a declared encoding."""
_DETECTED_BYTES = 128 * 1024
"""Number of bytes from which an encoding is detected."""
_BOMS = {
    # First, because UTF-32's little-endian mark begins with UTF-16's.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x0b\x1b\x08")
_ISO_2022 = (
    (re.compile(rb"\x1b\$[@B]|\x1b\([IJ]|\x1b\$\([DOPQ]"), "iso2022_jp_ext"),
    (re.compile(rb"\x1b\$\)C"), "iso2022_kr"),
)
"""Escape sequences → 7-bit encoding that they select."""
_SUPERSETS = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "iso2022_jp": "iso2022_jp_ext",
    "latin_1": "cp1252",
    "ascii": "cp1252",
}
"""Python's name of an encoding → the superset that the WHATWG standard and most files use under this name."""
_NAMES = {"cp1252": "Windows-1252 (cp1252)"}
_MAX_DAMAGED = 20
"""An encoding does not fit if more than one in this many characters is damaged."""
_KANA = re.compile("[\u3041-\u30fe]")
"""Japanese syllables: at least a fifth of a Japanese text, and hardly any if the encoding is wrong."""
_LEGACY = (
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
    *("iso8859_2", "iso8859_5", "iso8859_7", "koi8_r", "koi8_u", "cp866"),
    *("gb18030", "big5hkscs", "cp949"),
)
"""Encodings that are detected: those of the WHATWG standard that are still in use, most likely first."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoding of a file."""

    codec: str
    """Python's name of the codec."""
    guessed: bool = False
    """Whether it was detected, not declared."""

    @property
    def name(self) -> str:
        """Name for messages."""
        return _NAMES.get(self.codec, self.codec)


@dataclass(frozen=True, slots=True)
class Utf8Counts:
    """Counts of the characters of a file that is decoded as UTF-8."""

    valid: int
    """Valid characters beyond ASCII."""
    invalid: int

    @classmethod
    def of(cls, blocks: Iterable[bytes]) -> Utf8Counts:
        """Counts the characters of consecutive blocks."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        valid = invalid = 0
        for block in chain(blocks, (b"",)):
            text = decoder.decode(block, final=not block)
            # The file may contain the replacement character itself.
            damaged = max(text.count(REPLACEMENT) - block.count(REPLACEMENT.encode()), 0)
            valid += 0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore")) - damaged
            invalid += damaged
        return cls(valid, invalid)


def encoding_of(data: bytes, utf8: Utf8Counts, declared: str = "") -> Encoding:
    """The encoding of a file that begins with `data`. `utf8`: the counts of the whole file.

    Tries in this order: the byte order mark; the zero bytes of UTF-16; the escape sequences of ISO 2022; UTF-8, if most
    characters beyond ASCII are valid; the declared encoding; detection. Raises SkippedFileError if the bytes are not
    text or no encoding fits.
    """
    head = data[:SNIFFED_BYTES]
    marked = marked_encoding(data) or _unmarked_utf16(head)
    if marked is not None:
        if not _fits(data, marked):
            raise SkippedFileError(f"begins as {marked} but is not")
        return Encoding(marked)
    if is_binary(head):
        raise SkippedFileError("binary, not text")
    for escape, codec in _ISO_2022:
        if escape.search(data) and _fits(data, codec):
            return Encoding(codec)
    if utf8.valid >= utf8.invalid:
        return Encoding("utf-8-sig")
    labelled = _declared_codec(declared)
    if labelled is not None and _fits(data, labelled):
        return Encoding(labelled)
    return Encoding(_detected(data), guessed=True)


def is_binary(head: bytes) -> bool:
    """Whether a file that begins like this is not text. A file with a byte order mark is text."""
    controls = sum(1 for byte in head if byte < 32 and byte not in _TEXT_CONTROLS)
    if marked_encoding(head) is not None or _unmarked_utf16(head) is not None:
        return False
    return b"\0" in head or controls > len(head) // 50


def marked_encoding(data: bytes) -> str | None:
    """The encoding of the byte order mark; None if there is none."""
    return next((encoding for mark, encoding in _BOMS.items() if data.startswith(mark)), None)


def _unmarked_utf16(head: bytes) -> str | None:
    """UTF-16 without a byte order mark: most upper bytes of Latin text are zero, and hardly any lower byte."""
    pairs = len(head) // 2
    even, odd = head[0 : pairs * 2 : 2].count(0), head[1 : pairs * 2 : 2].count(0)
    for codec, upper, lower in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if pairs >= 4 and upper * 2 > pairs and lower * 50 <= pairs and _is_printable(head[: pairs * 2], codec):
            return codec
    return None


def _is_printable(data: bytes, codec: str) -> bool:
    text = data.decode(codec, "replace")
    return sum(each.isprintable() or each.isspace() for each in text) * _MAX_DAMAGED >= len(text) * (_MAX_DAMAGED - 1)


def _fits(data: bytes, codec: str) -> bool:
    """Whether few characters are damaged."""
    text = data.decode(codec, "replace")
    return text.count(REPLACEMENT) * _MAX_DAMAGED <= len(text)


def _declared_codec(label: str) -> str | None:
    """Python's name of the encoding with this label in the WHATWG standard; None if there is none.

    Source: https://encoding.spec.whatwg.org/#names-and-labels
    """
    found = webencodings.lookup(label)
    if found is None or found.name in ("x-user-defined", "utf-8") or found.name.startswith("utf-16"):
        # If the label is readable as ASCII, the page is not UTF-16. UTF-8 has been tried.
        return None
    codec = str(found.codec_info.name).replace("-", "_")
    return _SUPERSETS.get(codec, codec)


def _detected(data: bytes) -> str:
    """The most likely encoding. Raises SkippedFileError if none or several are likely."""
    sample = data[:_DETECTED_BYTES]
    if len(data) > len(sample):
        # Cut at a line end, so that no character is split.
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    for codec in ("cp932", "euc_jp"):
        text = sample.decode(codec, "replace")
        if len(_KANA.findall(text)) * 5 > sum(not each.isascii() for each in text):
            return codec
    matches = charset_normalizer.from_bytes(sample, cp_isolation=list(_LEGACY), enable_fallback=False)
    best = min(matches, key=lambda each: (each.chaos, -each.coherence, _LEGACY.index(each.encoding)), default=None)
    western = next((match for match in matches if "cp1252" in (match.encoding, *match.could_be_from_charset)), None)
    if best is not None and western is not None and western.coherence >= best.coherence:
        return "cp1252"
    if best is None or (len(matches) > 1 and best.coherence == 0 and best.multi_byte_usage == 0):
        raise SkippedFileError("its encoding cannot be recognised: save it as UTF-8")
    return best.encoding
