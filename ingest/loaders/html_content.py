"""Finds the content of an HTML page: everything that a reader can display, without navigation, banners and footers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lxml import etree

_NEVER_TEXT = frozenset(
    """
    audio canvas datalist dialog embed head iframe link meta noscript object script style template video
    """.split()  # noqa: SIM905
)
_STRUCTURAL = frozenset(("html", "body", "main", "article"))
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_TITLES = _HEADINGS | {"summary", "dt"}
_ANCHOR_SIGNS = frozenset(("#", "§", "¶", "🔗"))
"""Texts of links from a heading to itself."""


def _words(pattern: str) -> re.Pattern[str]:
    """Matches whole words of class names and ids: `footer` in `page-footer`, not in `footers`."""
    return re.compile(rf"(?:^|[\s_-])(?:{pattern})(?:$|[\s_-])")


_ALWAYS = _words(
    "headerlink|header-anchor|anchor-link|sr-only|visually-hidden|skip-(?:link|to-content)|edit-this-page|linenos|lineno"
    "|line-numbers|onetrust(?:-[\\w-]*)?|cookiebot\\w*|cybotcookiebot\\w*|usercentrics(?:-[\\w-]*)?|didomi-\\w*"
    "|(?:cookies?|consent|gdpr)(?:-\\w+)?[_-]?(?:banner|bar|notice|consent|popup|modal|dialog|overlay|law|message|wall)"
    "|cookiebanner|navbar|navigation|navheader|navfooter|breadcrumbs?|pagination|pager|prev-next(?:-area)?"
    "|related-(?:posts?|articles?|links?|stories|content|pages)|social-share|toctree-wrapper"
)
"""Names of elements that are never content."""
_AROUND = _words(
    "nav|topbar|side-?bar|(?:page|site|global)?-?footer|site-header|related|recommend(?:ed|ations)|menu|social|share"
    "|advert|ads|comments|toc|table-of-contents|(?<![_-])cookies?(?![_-])"
)
"""Names of elements around the content. Inside the content, only those that are mostly links are removed."""
_AMBIGUOUS = _words("menu|comments|ads|share|social|toc|sidebar|cookies?")
"""Names that may also belong to content, such as the menu of a restaurant."""
NOTE = _words("note|tip|hint|important|warning|caution|danger|attention|admonition|callout|alert")
"""Names of notes and warnings."""
_REVEALED = _words("tab(?:pane|panel|-pane|-panel|-content)?|tabs?|accordion\\w*|collaps\\w*|carousel\\w*|slide")
"""Names of elements that are hidden until the reader clicks."""
_TURN_WORDS = frozenset("prev previous next up home contents index back top « » ‹ › ← → ↑ < > << >>".split())  # noqa: SIM905
_TURN_RELATIONS = frozenset(("prev", "previous", "next", "up", "start", "contents", "index", "home"))
_RELATED_HEADING = re.compile(
    r"(?:related|recommended|read next|you (?:may|might) also|more (?:articles|stories|posts))\b"
)
_SENTENCE_END = re.compile(r"\w{3}[.!?](?:\s|$)")
_MOST_TURN_CHARS = 200
"""Maximum length of the text next to links to the previous and next page, such as their titles."""


@dataclass(slots=True)
class _Measure:
    """Size and kind of an element's content."""

    chars: int = 0
    linked: int = 0
    """Characters in links."""
    turns: int = 0
    """Links to the previous, next or upper page."""
    headings: int = 0
    first_headings: int = 0
    """Headings of level 1."""

    @property
    def prose(self) -> int:
        """Characters outside links."""
        return self.chars - self.linked

    def add(self, other: _Measure) -> None:
        """Adds the content of a child."""
        self.chars += other.chars
        self.linked += other.linked
        self.turns += other.turns
        self.headings += other.headings
        self.first_headings += other.first_headings


def content_of(page: Any) -> list[Any]:
    """The elements with the page's content, in order. Removes other elements from the page."""
    remove_invisible(page)
    measures = _measure(page)
    removed = _around(page, measures)
    # Keep everything if the class names mark nearly the whole page, for example as "sidebar".
    if removed and sum(measures[element].prose for element in removed) < 0.9 * measures[page].prose:
        _drop(removed)
        measures = _measure(page)
    main = _main(page, measures)
    if main is page or measures[main].first_headings or measures[page].first_headings != 1:
        return [main]
    heading = next(page.iter("h1"))
    header = next(heading.iterancestors("header"), None)
    if header is None and measures[main].headings:
        return [main]
    return [heading if header is None else header, main]


def remove_invisible(root: Any) -> None:
    """Removes elements without visible text, and hidden elements that no control reveals."""
    controlled: set[str] = set()
    for element in root.iter(etree.Element):
        for name in ("aria-controls", "data-target", "data-bs-target", "href"):
            value = element.get(name)
            if value and (name != "href" or value.startswith("#")):
                controlled.update(each.lstrip("#") for each in value.split())
    _drop(_outermost(root, lambda element: _is_invisible(element, controlled)))


def _is_invisible(element: Any, controlled: set[str]) -> bool:
    tag = element.tag
    if tag in _NEVER_TEXT:
        return not (tag == "script" and (element.get("type") or "").startswith("math/tex"))
    if tag == "button":
        return not _is_label(element)
    if tag == "a" and (element.get("href") or "").startswith("#") and (element.text or "").strip() in _ANCHOR_SIGNS:
        return not len(element)
    if tag in _STRUCTURAL:
        return False
    style = (element.get("style") or "").replace(" ", "").lower()
    hidden = element.get("hidden")
    if not (
        (hidden is not None and hidden != "until-found")
        or element.get("aria-hidden") == "true"
        or "display:none" in style
        or "visibility:hidden" in style
    ):
        return False
    return not (
        element.get("role") == "tabpanel" or element.get("id") in controlled or _REVEALED.search(_names(element))
    )


def _is_label(button: Any) -> bool:
    """Whether a button is the label of a tab or the heading of an accordion."""
    if button.get("role") == "tab" or button.get("aria-controls") or button.get("data-bs-target"):
        return True
    titles = (parent for parent, _ in zip(button.iterancestors(), range(2), strict=False) if parent.tag in _TITLES)
    return any(_text(title) == _text(button) for title in titles)


def _text(element: Any) -> str:
    return "".join(element.itertext()).strip()


def _names(element: Any) -> str:
    return f"{element.get('class') or ''} {element.get('id') or ''}".lower().strip()


def _outermost(root: Any, wanted: Callable[[Any], object]) -> list[Any]:
    """The wanted elements below `root` that are not inside another wanted element, in document order."""
    found = []
    walker = etree.iterwalk(root, events=("start",))
    for _, element in walker:
        if element is not root and isinstance(element.tag, str) and wanted(element):
            found.append(element)
            walker.skip_subtree()
    return found


def _drop(elements: list[Any]) -> None:
    for element in elements:
        element.drop_tree()


def _measure(root: Any) -> dict[Any, _Measure]:
    """The measure of each element of the tree, in one pass."""
    measures: dict[Any, _Measure] = {}
    links = 0

    def count(measure: _Measure, text: str | None) -> None:
        chars = len(text.strip()) if text else 0
        measure.chars += chars
        measure.linked += chars if links else 0

    for event, element in etree.iterwalk(root, events=("start", "end")):
        if event == "start":
            links += element.tag == "a"
            measures[element] = measure = _Measure()
            count(measure, element.text)
            if element.tag in _HEADINGS:
                measure.headings = 1
                measure.first_headings = int(element.tag == "h1")
        else:
            measure = measures[element]
            if element.tag == "a":
                links -= 1
                measure.turns = int(_is_page_turn(element, measure.chars))
            parent = element.getparent() if element is not root else None
            if parent is not None:
                measures[parent].add(measure)
                count(measures[parent], element.tail)
    return measures


def _is_page_turn(link: Any, chars: int) -> bool:
    """Whether a link goes to the previous, next or upper page."""
    if not _TURN_RELATIONS.isdisjoint((link.get("rel") or "").lower().split()):
        return True
    if (link.get("accesskey") or "").lower() in ("p", "n", "u", "h"):
        return True
    return chars < 20 and _text(link).strip(" []()").lower() in _TURN_WORDS


def _around(page: Any, measures: dict[Any, _Measure]) -> list[Any]:
    """The outermost elements that are not content: navigation, banners, footers, related links."""
    contents = set(page.iter("main", "article"))
    contents.update(element for element in page.iter(etree.Element) if element.get("role") == "main")
    inside: dict[Any, bool] = {}
    for element in page.iter(etree.Element):
        inside[element] = element in contents or inside.get(element.getparent(), False)
    before_text = not contents and measures[page].headings > 0

    def is_links(element: Any, share: float) -> bool:
        return element is not None and measures[element].linked >= share * measures[element].chars > 0

    def is_related(heading: Any) -> bool:
        if heading is None or heading.tag not in _HEADINGS or not is_links(heading.getnext(), 0.8):
            return False
        return _RELATED_HEADING.match(_text(heading).lower()) is not None

    def surrounds(element: Any) -> bool:
        nonlocal before_text
        before_text = before_text and element.tag not in _HEADINGS
        if before_text and element.tag in ("ul", "ol") and is_links(element, 0.9):
            return True
        if is_related(element) or is_related(element.getprevious()):
            return True
        return _surrounds(element, measures[element], measures[page], inside[element])

    return _outermost(page, surrounds)


def _surrounds(element: Any, measure: _Measure, page: _Measure, inside: bool) -> bool:
    tag, role, names = element.tag, (element.get("role") or "").lower(), _names(element)
    if tag in _STRUCTURAL or role == "main":
        return False
    majority = measure.prose > page.prose / 2
    if names and _ALWAYS.search(names) and not majority:
        return True
    if tag == "nav" or role in ("navigation", "search", "dialog", "alertdialog"):
        return True
    if measure.turns > 1 and not measure.headings and measure.prose <= _MOST_TURN_CHARS:
        return _SENTENCE_END.search(_text(element)) is None
    links = measure.linked >= measure.chars / 2
    if tag == "header" or role == "banner":
        only_heading = measure.first_headings == page.first_headings == 1
        return not (inside or only_heading)
    if tag in ("aside", "footer") or role in ("complementary", "contentinfo"):
        return links if inside or (tag == "aside" and NOTE.search(names)) else not majority
    if not names or not _AROUND.search(names) or majority:
        return False
    return links or not (inside or _AMBIGUOUS.search(names))


def _main(page: Any, measures: dict[Any, _Measure]) -> Any:
    """The main element: `main`, else the only `article`, else the page.

    Elements with hardly any text, which a script would fill, are ignored if the page has text elsewhere.
    """
    total = measures[page].chars
    mains = [element for element in page.iter(etree.Element) if element.tag == "main" or element.get("role") == "main"]
    articles = list(page.iter("article"))
    if not mains and len(articles) == 1 and measures[articles[0]].chars >= total / 4:
        mains = articles
    best = max(mains, key=lambda element: measures[element].chars, default=page)
    chars = measures[best].chars
    return best if chars >= min(100, total / 2) else page
