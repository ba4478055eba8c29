"""The text of inline HTML elements: images, form fields, superscripts, subscripts and formulas."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from lxml import etree

_WHITESPACE = re.compile(r"[ \t\n\r\f\v]+")
_FILE_NAME = re.compile(r"\S+\.(?:png|jpe?g|gif|svg|webp|bmp)", re.IGNORECASE)
_NO_VALUE = frozenset(("button", "file", "hidden", "password", "reset", "search", "submit"))
_SUPERSCRIPTS = str.maketrans("0123456789+-=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ")
_SUBSCRIPTS = str.maketrans("0123456789+-=()", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎")
_DISPLAY = re.compile(r"^\{\\(?:display|text)style\s*(.*)\}$", re.DOTALL)


def joined_line(pieces: Sequence[str]) -> str:
    """The pieces joined, with white space collapsed."""
    return _WHITESPACE.sub(" ", "".join(pieces)).strip()


def _picture(element: Any) -> str:
    """The alternative text of an image, unless it is a file name."""
    alt = joined_line([element.get("alt") or element.get("aria-label") or ""])
    return "" if _FILE_NAME.fullmatch(alt) else f" {alt} "


def _drawing(element: Any) -> str:
    """The text in an SVG, and its title if it is an image and not an icon."""
    words = [element.get("aria-label") or ""]
    if element.get("role") == "img":
        words += ["".join(title.itertext()) for title in element.iterchildren("title")]
    words += ["".join(text.itertext()) for text in element.iter("text")]
    return f" {' '.join(words)} "


def _field(element: Any) -> str:
    """The visible value of a form field; `[x]` or `[ ]` for a checkbox."""
    if element.tag == "textarea":
        return f" {element.text or ''} "
    kind = (element.get("type") or "text").lower()
    if kind in ("checkbox", "radio"):
        return "[x] " if element.get("checked") is not None else "[ ] "
    if kind == "image":
        return _picture(element)
    return "" if kind in _NO_VALUE else f" {element.get('value') or ''} "


def _options(element: Any) -> str:
    """The selected options, else all of them."""
    options = list(element.iter("option"))
    selected = [option for option in options if option.get("selected") is not None] or options
    return f" {', '.join(filter(None, (joined_line(list(option.itertext())) for option in selected)))} "


def _sup_or_sub(element: Any) -> str:
    """A superscript or subscript; empty for a link to a footnote."""
    parent = element.getparent()
    links = list(element.iter("a")) or [parent for parent in (parent,) if parent is not None and parent.tag == "a"]
    if element.tag == "sup" and len(links) == 1 and (links[0].get("href") or "").startswith("#"):
        return ""
    text = "".join(element.itertext())
    before, after = " " * text[:1].isspace(), " " * text[-1:].isspace()
    return before + _sup_or_sub_text(joined_line([text]), element.tag) + after


def _sup_or_sub_text(text: str, tag: str) -> str:
    """The text of `sup` or `sub`: `10⁶`, `CO₂`, `1st`, `x^(a+b)`."""
    if text.isalpha() and tag == "sup" and len(text) > 1:
        # An ordinal or an abbreviation: 1st, Mme, TM.
        return text
    table, mark = (_SUPERSCRIPTS, "^") if tag == "sup" else (_SUBSCRIPTS, "_")
    text = text.replace("−", "-")
    if not text:
        return ""
    if all(ord(character) in table for character in text):
        return text.translate(table)
    return f"{mark}{_parenthesised(text)}"


def _formula(math: Any) -> str:
    """A formula in MathML: its TeX source if the page has it, else plain text such as `E=mc^2`."""
    for annotation in math.iter("annotation"):
        if "tex" in (annotation.get("encoding") or "").lower():
            return f" {_tex(annotation.text)} "
    if math.get("alttext"):
        return f" {_tex(math.get('alttext'))} "
    parts: list[list[str]] = [[]]
    for event, element in etree.iterwalk(math, events=("start", "end")):
        if event == "start":
            parts.append([word] if (word := (element.text or "").strip()) else [])
        else:
            operands = parts.pop()
            parts[-1].append(_operation(element.tag, operands))
    return f" {parts[0][0]} "


def _tex(text: str | None) -> str:
    return _DISPLAY.sub(r"\1", (text or "").strip()).strip()


def _operation(tag: str, parts: list[str]) -> str:
    match tag, parts:
        case (("annotation" | "annotation-xml"), _):
            return ""
        case (("msup" | "mover"), [base, above]):
            return f"{base}^{_parenthesised(above)}"
        case (("msub" | "munder"), [base, below]):
            return f"{base}_{_parenthesised(below)}"
        case (("msubsup" | "munderover"), [base, below, above]):
            return f"{base}_{_parenthesised(below)}^{_parenthesised(above)}"
        case "mfrac", [above, below]:
            return f"{_parenthesised(above)}/{_parenthesised(below)}"
        case "msqrt", _:
            return f"√{_parenthesised(''.join(parts))}"
        case "mroot", [base, degree]:
            return f"{_parenthesised(base)}^(1/{degree})"
        case (("mtr" | "mtable"), _):
            return f"[{', '.join(parts)}]"
        case "mspace", _:
            return " "
    return "".join(parts)


def _parenthesised(text: str) -> str:
    return text if len(text) == 1 or text.isdigit() else f"({text})"


INLINE: dict[str, Callable[[Any], str]] = {
    "img": _picture,
    "area": _picture,
    "svg": _drawing,
    "input": _field,
    "textarea": _field,
    "select": _options,
    "sup": _sup_or_sub,
    "sub": _sup_or_sub,
    "math": _formula,
}
"""Tag → function that returns the element's text."""
