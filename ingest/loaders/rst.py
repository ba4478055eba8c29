"""reStructuredText, by docutils and the HTML reader. Directives and roles of Sphinx keep their words."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar

import docutils
from docutils import nodes
from docutils.core import publish_doctree, publish_from_doctree
from docutils.parsers.rst import Directive, directives, roles
from docutils.parsers.rst.languages import en

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument, check_length, normalise, one_line
from ingest.loaders.file import SourceFile
from ingest.loaders.html import parse_html
from ingest.loaders.html_text import render

_ERROR, _NEVER = 3, 5
"""Levels of docutils' messages: errors, and one above all."""
_CODE = frozenset(
    """
    code code-block console digraph doctest graph graphviz ipython mermaid plantuml prompt sourcecode testcode
    testoutput testsetup uml
    """.split()  # noqa: SIM905
)
_UNSEEN = frozenset(
    "contents currentmodule default-domain highlight index meta sectnum tabularcolumns toctree".split()  # noqa: SIM905
)
"""Directives that readers do not see, or see as links only."""
_CONDITIONS = frozenset(("ifconfig", "only"))
_OWN = _CODE | _UNSEEN
_TITLES = {
    "deprecated": "Deprecated since",
    "seealso": "See also:",
    "todo": "To do:",
    "versionadded": "New in",
    "versionchanged": "Changed in",
    "versionremoved": "Removed in",
}
_DIRECTIVE = re.compile(r"^[ \t]*\.\. (?:\|[^|\n]+\| )?([\w:.+-]+?) ?::(?:\s|$)", re.MULTILINE)
_ROLE = re.compile(r":([\w:.+-]+?):`")
_INCLUDED = re.compile(r"^[ \t]*(?:\.\. (?:literal)?include ?::|:file:)[ \t]*(\S+)", re.MULTILINE)
_TARGET = re.compile(r"\s*<[^<>]*>$")


class RstLoader:
    """reStructuredText."""

    suffixes = (".rest", ".rst")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Always False: it looks like plain text."""
        return False

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document. Author and date come from the fields at its beginning."""
        text = normalise((yield from file.text(limits)), collapse_blank_lines=False)
        check_length(len(text), limits)
        if included := dict.fromkeys(_INCLUDED.findall(text)):
            yield Notice(one_line(f"the files that it includes are not read with it: {', '.join(included)}"))
        page, info = _page(text)
        builder = TextBuilder(limits)
        render(page, builder)
        title = builder.first_heading or file.stem
        document = builder.document(
            file.source, "", title, url=None, values={"author": info["author"]}, date=info["date"]
        )
        if document is None:
            raise SkippedFileError("holds no text")
        yield document


class _Unknown(Directive):
    """A directive that docutils does not know: keeps its argument and content."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    # Never empty: docutils asks whether there are options.
    option_spec: ClassVar[dict[str, Any]] = defaultdict(lambda: directives.unchanged, {"class": directives.unchanged})

    def run(self) -> list[nodes.Node]:
        name = self.name.lower().rpartition(":")[2]
        argument = " ".join(self.arguments)
        if name in _UNSEEN:
            return []
        if name in _CONDITIONS:
            argument = ""
        parent = nodes.Element()
        caption = self.options.get("caption") or self.options.get("alt") or ""
        title = caption if name in _CODE else " ".join(filter(None, (_TITLES.get(name), argument, caption)))
        if title:
            words, _ = self.state.inline_text(title, self.lineno)
            parent += nodes.paragraph("", "", *words)
        if name in _CODE:
            code = "\n".join(self.content)
            parent += nodes.literal_block(code, code, classes=[f"highlight-{argument or name}"])
        else:
            self.state.nested_parse(self.content, self.content_offset, parent, match_titles=True)
        return list(parent.children)


def _unknown_role(*role: Any, **_: Any) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """The text of a role that docutils does not know, without its target: `text <target>`."""
    name, source, text = role[:3]
    text = docutils.utils.unescape(text)
    shown = _TARGET.sub("", text) or text.strip("<>")
    words = shown.lstrip("~!")
    if shown.startswith("~"):
        words = words.rpartition(".")[2]
    return [nodes.inline(source, words, classes=[name])], []


def _page(text: str) -> tuple[Any, defaultdict[str, str]]:
    """The page as HTML, and author and date. Raises SkippedFileError if docutils fails."""
    for name in {found.lower() for found in _DIRECTIVE.findall(text)}:
        if name not in en.directives or name in _OWN:
            directives.register_directive(name, _Unknown)
    for name in {found.lower() for found in _ROLE.findall(text)} - set(en.roles):
        roles.register_canonical_role(name, _unknown_role)
    settings = {
        "_disable_config": True,
        "embed_stylesheet": False,
        "file_insertion_enabled": False,
        "halt_level": _NEVER,
        "line_length_limit": len(text) + 1,
        "math_output": "LaTeX",
        "raw_enabled": False,
        "report_level": _NEVER,
        "stylesheet_path": "",
        "syntax_highlight": "none",
    }
    try:
        tree = publish_doctree(text, settings_overrides=settings)
        for message in list(tree.findall(nodes.system_message)):
            # What docutils cannot parse is kept as it is written.
            kept = list(message.findall(nodes.literal_block)) if message["level"] >= _ERROR else []
            message.parent.replace(message, kept)
        for label in list(tree.findall(nodes.label)):
            # Of a footnote: the number begins its text.
            note = label.parent
            note.remove(label)
            if note.children and isinstance(note[0], nodes.paragraph):
                note[0].insert(0, nodes.Text(f"[{label.astext()}] "))
        info: defaultdict[str, str] = defaultdict(str)
        for field in tree.findall(nodes.docinfo):
            info.update({child.tagname: child.astext() for child in field})
        titled = isinstance(next(iter(tree.children), None), nodes.title)
        settings["initial_header_level"] = 2 if titled else 1
        html = publish_from_doctree(tree, writer="html5", settings_overrides=settings)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise SkippedFileError(f"broken reStructuredText: {one_line(str(error), 200)}") from error
    except docutils.ApplicationError as error:
        raise SkippedFileError(f"broken reStructuredText: {one_line(str(error), 200)}") from error
    return parse_html(html.decode()).find("body"), info


LOADER = RstLoader()
