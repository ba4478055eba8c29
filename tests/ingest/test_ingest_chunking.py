"""Chunks quote their document exactly, cover it, fit the embedder's window and follow the text's structure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedder.tokens import TokenCounter
from ingest.chunking import Chunker, ChunkSettings, Span
from ingest.errors import IngestError
from ingest.loaders import Limits, ParsedDocument, SourceFile, load
from ingest.loaders.document import Block, Heading, normalise
from ingest.loaders.markdown import markdown_structure
from tests.ingest.golden import FILES, SOURCES

SMALL = ChunkSettings(window_tokens=64, reserved_tokens=4, max_tokens=40, overlap_tokens=10, min_tokens=8)


def markdown(text: str, title: str = "") -> ParsedDocument:
    text = normalise(text, collapse_blank_lines=False)
    structure = markdown_structure(text)
    return ParsedDocument("a.md", "", text, title, headings=structure.headings, blocks=structure.blocks)


def plain(text: str) -> ParsedDocument:
    return ParsedDocument("a.txt", "", text)


def cut(document: ParsedDocument, tokens: TokenCounter, sizes: ChunkSettings = SMALL) -> list[Span]:
    return list(Chunker(sizes, tokens).spans(document))


def texts(document: ParsedDocument, spans: Sequence[Span]) -> list[str]:
    return [document.text[span.start : span.end] for span in spans]


def check(document: ParsedDocument, spans: Sequence[Span], sizes: ChunkSettings, tokens: TokenCounter) -> None:
    """Invariants of every document."""
    covered = bytearray(len(document.text))
    for span in spans:
        text = document.text[span.start : span.end]
        assert text.strip()
        assert not text[-1].isspace()
        # A single character may have several tokens but cannot be split.
        if len(text) > 1:
            assert tokens.count(span.prefix + text) <= sizes.window_tokens - sizes.reserved_tokens
        covered[span.start : span.end] = b"\1" * (span.end - span.start)
    assert all(seen or character.isspace() for seen, character in zip(covered, document.text, strict=True))
    for before, after in itertools.pairwise(spans):
        assert before.start < after.start
        assert before.end < after.end or before.end <= after.start


# Any text, even one that no loader would return.
_ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=3_000)
_WORDY = st.lists(
    st.sampled_from(
        [
            *(
                "kiln",
                "The",
                "pot.",
                "is",
                "hot!",
                "\n",
                "\n\n",
                "\n\n\n",
                "  ",
                "x" * 150,
                "日本語の文。",
                "a.b.c",
                "e.g.",
            ),
            *("- item", "# Head\n", "## Deeper\n", "```\ncode  here\n```\n", "| a | b |\n| - | - |\n| 1 | 2 |\n", "😀"),
        ]
    ),
    max_size=400,
).map(" ".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(text=_ANY_TEXT | _WORDY)
@pytest.mark.parametrize("sizes", [SMALL, ChunkSettings()])
def test_chunks_of_any_text(text: str, sizes: ChunkSettings, tokens: TokenCounter) -> None:
    for document in (plain(text), markdown(text, "A title")):
        spans = cut(document, tokens, sizes)
        check(document, spans, sizes, tokens)
        assert spans == cut(document, tokens, sizes)


@dataclass(frozen=True)
class Structured:
    document: ParsedDocument
    limits: list[int] = field(default_factory=list)


@st.composite
def structured(draw: st.DrawFn) -> ParsedDocument:
    """A document with headings and blocks anywhere, even without sense."""
    text = draw(_WORDY)
    places = sorted(set(draw(st.lists(st.integers(0, len(text)), max_size=24))))
    ranges = list(itertools.pairwise(places))
    headings = tuple(
        Heading(start, end, draw(st.integers(1, 6)), draw(st.sampled_from(["One", "Two", "A very long heading " * 12])))
        for start, end in ranges[::3]
    )
    blocks = tuple(Block(start, end) for start, end in ranges[1::3])
    pages = tuple(sorted(draw(st.lists(st.integers(0, len(text)), max_size=5))))
    return ParsedDocument("a", "", text, "A title " * 20, None, {}, headings, blocks, (0, *pages) if pages else ())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(document=structured())
def test_chunks_of_any_structure(document: ParsedDocument, tokens: TokenCounter) -> None:
    check(document, cut(document, tokens), SMALL, tokens)


@pytest.mark.parametrize("source", SOURCES)
def test_chunks_of_every_format(source: str, tokens: TokenCounter) -> None:
    for document in load(SourceFile(FILES / source, source), Limits()):
        if isinstance(document, ParsedDocument):
            check(document, cut(document, tokens), SMALL, tokens)


def sentences(number: int, words: int = 8) -> str:
    return " ".join(f"The kiln {' '.join(['pot'] * (words - 3))} {each % 10}." for each in range(number))


def test_a_short_document_is_one_chunk(tokens: TokenCounter) -> None:
    document = plain("\n\n  The kiln is hot.\n\nThe pot is not.  \n")
    (span,) = cut(document, tokens)
    assert texts(document, [span]) == ["  The kiln is hot.\n\nThe pot is not."]
    assert (span.heading_path, span.prefix) == ((), "")


def test_nothing_gives_nothing(tokens: TokenCounter) -> None:
    assert cut(plain(""), tokens) == []
    assert cut(plain(" \n\n\t "), tokens) == []


def test_cuts_are_between_paragraphs_if_they_fit(tokens: TokenCounter) -> None:
    paragraphs = [sentences(3), sentences(2), sentences(3), sentences(2)]
    document = plain("\n\n".join(paragraphs))
    found = texts(document, cut(document, tokens))
    assert [text.split("\n\n")[-1] for text in found] == paragraphs


def test_cuts_are_between_sentences_if_paragraphs_do_not_fit(tokens: TokenCounter) -> None:
    document = plain(sentences(30))
    spans = cut(document, tokens)
    assert len(spans) > 3
    for text in texts(document, spans):
        assert text.startswith("The kiln")
        assert text.endswith(".")
        assert tokens.count(text) <= SMALL.max_tokens


def test_overlap_is_whole_sentences(tokens: TokenCounter) -> None:
    document = plain(sentences(30))
    for before, after in itertools.pairwise(cut(document, tokens)):
        shared = document.text[after.start : before.end]
        assert re.fullmatch(r"The kiln pot pot pot pot pot \d\.", shared)
    none = ChunkSettings(window_tokens=64, reserved_tokens=4, max_tokens=40, overlap_tokens=0, min_tokens=8)
    spans = cut(document, tokens, none)
    assert all(before.end < after.start for before, after in itertools.pairwise(spans))


def test_abbreviations_do_not_end_sentences(tokens: TokenCounter) -> None:
    document = plain(" ".join(["The pot by Dr. A. Brandt and co. is at Fig. 3 of the kiln."] * 12))
    for text in texts(document, cut(document, tokens)):
        assert text.startswith("The pot")


def test_wrapped_lines_are_not_cut(tokens: TokenCounter) -> None:
    line = "The pot and the kiln and the wheel and the door and the shelf\n"
    document = plain((line + "of the first kiln has a glaze.\n") * 6)
    for text in texts(document, cut(document, tokens)):
        assert text.startswith("The pot")
        assert text.endswith("glaze.")


def test_code_and_tables_stay_whole(tokens: TokenCounter) -> None:
    code = "```\n" + "\n".join(f"pot {number}" for number in range(9)) + "\n\n\nkiln\n```"
    table = "| pot | kiln |\n| - | - |\n| a | b |"
    document = markdown(f"{sentences(3)}\n\n{code}\n\n{sentences(3)}\n\n{table}\n\n{sentences(4)}")
    found = texts(document, cut(document, tokens))
    assert sum(code in text for text in found) == 1
    assert sum(table in text for text in found) == 1
    assert not any("```" in text and code not in text for text in found)


def test_code_that_does_not_fit_is_cut_at_lines_and_keeps_its_indentation(tokens: TokenCounter) -> None:
    code = "```\n" + "\n".join(f"    pot {number % 10} kiln" for number in range(40)) + "\n```"
    document = markdown(code)
    found = texts(document, cut(document, tokens))
    assert len(found) > 2
    assert all(text.startswith("    pot") for text in found[1:])


def test_a_word_that_never_ends_is_cut(tokens: TokenCounter) -> None:
    document = plain("kiln " + "x" * 5_000 + " pot")
    spans = cut(document, tokens)
    check(document, spans, SMALL, tokens)
    assert max(span.end - span.start for span in spans) < 200


def test_heading_paths_and_prefixes(tokens: TokenCounter) -> None:
    document = markdown(
        f"# Kiln\n\n{sentences(3)}\n\n## Door\n\n{sentences(4)}\n\n### Glaze\n\n{sentences(4)}\n\n"
        f"# Wheel\n\n{sentences(2)}",
        title="Pots",
    )
    spans = cut(document, tokens)
    assert [span.heading_path for span in spans] == [
        ("Kiln",),
        ("Kiln", "Door"),
        ("Kiln", "Door", "Glaze"),
        ("Wheel",),
    ]
    assert [span.prefix for span in spans] == [
        "Pots\nKiln\n\n",
        "Pots\nKiln > Door\n\n",
        "Pots\nKiln > Door > Glaze\n\n",
        "Pots\nWheel\n\n",
    ]


def test_a_title_equal_to_the_first_heading_is_embedded_once(tokens: TokenCounter) -> None:
    document = markdown(f"# Pots\n\n{sentences(3)}\n\n## Door\n\n{sentences(4)}", title="Pots")
    assert [span.prefix for span in cut(document, tokens)] == ["Pots\n\n", "Pots\nDoor\n\n"]


def test_long_titles_and_headings_give_way_to_the_text(tokens: TokenCounter) -> None:
    document = markdown("# " + "glaze " * 40 + f"\n\n## Door\n\n{sentences(4)}", title="The kiln " * 30)
    spans = cut(document, tokens)
    check(document, spans, SMALL, tokens)
    assert spans[-1].prefix == "The kiln The kiln The kiln The kiln\n\n"


def test_tiny_sections_under_one_heading_are_joined(tokens: TokenCounter) -> None:
    document = markdown("# Kiln\n\n## Door\n\nOne pot.\n\n## Shelf\n\nTwo pots.\n\n# Wheel\n\nNo pot.")
    spans = cut(document, tokens)
    assert texts(document, spans) == ["# Kiln\n\n## Door\n\nOne pot.\n\n## Shelf\n\nTwo pots.", "# Wheel\n\nNo pot."]
    assert [span.heading_path for span in spans] == [("Kiln",), ("Wheel",)]


def test_a_heading_stays_with_what_follows(tokens: TokenCounter) -> None:
    document = markdown(f"# Kiln\n\n## Door\n\n{sentences(20)}")
    spans = cut(document, tokens)
    assert texts(document, spans)[0].startswith("# Kiln\n\n## Door\n\nThe kiln")
    assert {span.heading_path for span in spans} == {("Kiln", "Door")}


def test_large_sections_do_not_share_chunks(tokens: TokenCounter) -> None:
    document = markdown("\n\n".join(f"# Kiln {number}\n\n{sentences(7)}" for number in range(5)))
    for text in texts(document, cut(document, tokens)):
        assert text.count("# Kiln") <= 1
        assert text.find("# Kiln") in (0, -1)


def test_pages_are_named_and_not_embedded(tokens: TokenCounter) -> None:
    pages = [sentences(4), sentences(2), sentences(3)]
    text = "\n\n".join(pages)
    starts = (0, len(pages[0]) + 2, len(pages[0]) + len(pages[1]) + 4)
    document = ParsedDocument("a.pdf", "", text, "Pots", page_starts=starts)
    spans = cut(document, tokens)
    assert spans[0].heading_path == ("Page 1",)
    assert spans[-1].heading_path in (("Page 3",), ("Pages 2–3",))
    assert all(span.prefix == "Pots\n\n" for span in spans)


def test_chunks_are_of_even_size(tokens: TokenCounter) -> None:
    document = plain(sentences(41))
    sizes = [tokens.count(text) for text in texts(document, cut(document, tokens))]
    assert min(sizes) > SMALL.max_tokens / 2


class CountingTokens:
    """Words as tokens; counts the characters it was given."""

    def __init__(self) -> None:
        self.chars = 0
        self.longest = 0

    def offsets(self, text: str) -> list[tuple[int, int]]:
        self.chars += len(text)
        self.longest = max(self.longest, len(text))
        return [match.span() for match in re.finditer(r"\S+", text)]

    def count(self, text: str) -> int:
        return len(self.offsets(text))


@pytest.mark.parametrize(
    "text",
    [
        "The pot stands on the wheel, it is hot. " * 8_000,
        "word " * 60_000,
        "x" * 300_000,
        "line\n" * 60_000,
        "# Head\n\nThe pot is hot.\n\n" * 10_000,
        " " * 300_000 + "end",
        "." * 300_000,
        "a." * 150_000,
    ],
    ids=["sentences", "words", "one word", "lines", "headings", "spaces", "stops", "letters"],
)
def test_work_grows_linearly(text: str) -> None:
    tokens = CountingTokens()
    document = markdown(text) if text.startswith("#") else plain(text)
    spans = cut(document, tokens, ChunkSettings())
    assert spans
    assert tokens.longest < 20_000
    assert tokens.chars < 12 * len(text)


def test_contradictory_sizes_are_refused() -> None:
    with pytest.raises(IngestError, match="Chunks of 300 tokens do not fit: between 8 and 248 do"):
        ChunkSettings(max_tokens=300)
    with pytest.raises(IngestError, match="An overlap of 150 tokens is too much for chunks of 200: at most 100"):
        ChunkSettings(overlap_tokens=150)
