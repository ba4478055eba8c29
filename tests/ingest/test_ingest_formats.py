"""HTML, Markdown, CSV and JSON as people write them: what is kept, what goes, and the notices about the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedder.tokens import TokenCounter
from ingest.chunking import Chunker, ChunkSettings
from ingest.errors import SkippedFileError
from ingest.loaders.document import web_address
from ingest.loaders.front_matter import split_front_matter
from tests.ingest.reading import read


def text(folder: Path, name: str, content: str) -> str:
    (document,) = read(folder, name, content)[0]
    return document.text


# HTML


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        # Hidden, but a control reveals it.
        ('<main><p>One.</p><div role="tabpanel" hidden><p>Two.</p></div></main>', "One.\n\nTwo."),
        ('<p>One.</p><a href="#more">More</a><div id="more" hidden>Two.</div>', "One.\n\nMore\n\nTwo."),
        ('<p>One.</p><div class="tab-pane" style="display: none">Two.</div>', "One.\n\nTwo."),
        ("<h2><button aria-expanded=false>When?</button></h2><p>At nine.</p>", "## When?\n\nAt nine."),
        ("<p>One.</p><p hidden>Never.</p><p style='display:none'>Never.</p>", "One."),
        ("<details><summary>How long?</summary><p>Nine days.</p></details>", "How long? Nine days."),
        # Notes, and headings that end with their box.
        ("<main><p>One.</p><aside><p>Never exceed 7 bar.</p></aside></main>", "One.\n\nNever exceed 7 bar."),
        ("<p>One.</p><div class=note><h3>Note</h3><p>Hot.</p></div><p>Two.</p>", "One.\n\nNote: Hot.\n\nTwo."),
        (
            "<div class='admonition tip'><p class=admonition-title>Tip</p><ul><li>Cold.</ul></div>",
            "Tip\n\n- Cold.",
        ),
        ("<main><h1>A</h1><p>One is locked.</p></main><aside>Others</aside>", "# A\n\nOne is locked."),
        # The page's own header.
        ("<header><h1>Refunds</h1></header><p>Nine days.</p>", "# Refunds\n\nNine days."),
        ("<header><h1>Refunds</h1></header><main><p>Nine days.</p></main>", "# Refunds\n\nNine days."),
        ("<header><h1>Shop</h1></header><main><h1>Refunds</h1><p>Nine days.</p></main>", "# Refunds\n\nNine days."),
        # Around the content.
        ("<div id=cookie-banner><p>Cookies!</p></div><p>Open at 8.</p><div class=footer>©</div>", "Open at 8."),
        ("<p>Open at 8.</p><div class=page-footer><p>© Shop</p></div>", "Open at 8."),
        (
            "<table><tr><td><a href=a>Prev</a><td>Chapter 2<td><a href=b>Next</a></table><p>Lock the gate.</p>",
            "Lock the gate.",
        ),
        ("<ul><li><a href=/>Shop</a><li><a href=/x>Tools</a></ul><h1>A</h1><p>One.</p>", "# A\n\nOne."),
        ("<main><p>One.</p><h2>Related articles</h2><ul><li><a href=b>Two</a></ul><p>Three.</main>", "One.\n\nThree."),
        (
            "<main><p>Open.</p><section class=menu><h2>Monday</h2><p>Soup.</p></section></main>",
            "Open.\n\n## Monday\n\nSoup.",
        ),
        (
            "<article><p>Wait</p></article><div><h1>A</h1><p>Tools are lent for nine days.</p></div>",
            "Wait\n\n# A\n\nTools are lent for nine days.",
        ),
        ("<h2>Size <a href='#size'>¶</a></h2><p>One.</p>", "## Size\n\nOne."),
        # Pictures, forms and formulas.
        ("<p>See <img src=a.png alt='the plan'></p>", "See the plan"),
        ("<p>One.</p><img src='data:image/png;base64,QUJD' alt=photo.png>", "One."),
        ("<svg role=img><title>Exit B</title><text>Gate</text></svg><p>One.</p>", "Exit B Gate\n\nOne."),
        ("<p>Name: <input value=Quill> <input type=hidden value=x></p>", "Name: Quill"),
        ("<p><input type=checkbox checked> Milk <input type=radio> Tea</p>", "[x] Milk [ ] Tea"),
        ("<p><select><option>Small<option selected>Large</select><textarea>Thanks</textarea></p>", "Large Thanks"),
        (
            "<p>10<sup>6</sup> m<sup>2</sup>, CO<sub>2</sub>, 1<sup>st</sup>, x<sup>a+b</sup></p>",
            "10⁶ m², CO₂, 1st, x^(a+b)",
        ),
        ("<p>True.<sup><a href='#fn1'>1</a></sup></p>", "True."),
        ("<p><math><mi>E</mi><mo>=</mo><mi>m</mi><msup><mi>c</mi><mn>2</mn></msup></math></p>", "E=mc^2"),
        ("<p><math><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mn>2</mn></mfrac></math></p>", "(a+b)/2"),
        (
            "<p><math alttext='{\\displaystyle x_{1}}'><mi>x</mi></math> <script type=math/tex>y^2</script></p>",
            "x_{1} y^2",
        ),
        ("<p><del>9 EUR</del> 7 EUR <q>net</q></p>", "~~9 EUR~~ 7 EUR “net”"),
        # Lists.
        (
            "<dl><dt>Port</dt><dd>9181</dd><dt>-v</dt><dt>--verbose</dt><dd><p>Says more.</dd></dl>",
            "Port: 9181\n\n-v, --verbose: Says more.",
        ),
        ("<ol><li><h3>Open</h3><p>Turn the key.</p></li></ol>", "1. Open: Turn the key."),
    ],
)
def test_html(tmp_path: Path, html: str, expected: str) -> None:
    assert text(tmp_path, "page.html", f"<html><body>{html}</body></html>") == expected


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (
            "<tr><th>Zone<th>Weight<th>Price<tr><td rowspan=2>North<td>1 kg<td>4<tr><td>5 kg<td>9"
            "<tr><td colspan=2>South, any<td>12",
            ["Zone | Weight | Price", "North | 1 kg | 4", "North | 5 kg | 9", "South, any |  | 12"],
        ),
        (
            "<thead><tr><th rowspan=2>Year<th colspan=2>Price<tr><th>Net<th>Gross</thead><tr><td>2023<td>1<td>2",
            ["Year | Price Net | Price Gross", "2023 | 1 | 2"],
        ),
        ("<tr><th>Step<th>Do<tr><td>1<td><ul><li>Open<li>Close</ul>", ["Step | Do", "1 | Open; Close"]),
        ("<tr><td>Wo<b>rd</b><td>a<br>b", ["Word | a b"]),
        (
            "<tr><td rowspan=99999 colspan=99999>A<td>B<tr><td>C",
            ["A" + " | " * 100 + "B", "A" + " | " * 100 + "C"],
        ),
    ],
)
def test_html_tables_are_grids(tmp_path: Path, table: str, rows: list[str]) -> None:
    lines = text(tmp_path, "page.html", f"<p>Rates</p><table>{table}</table>").split("\n")[2:]
    del lines[1]
    width = max(row.count("|") for row in rows)
    assert lines == ["| " + row + " | " * (width - row.count("|")) + " |" for row in rows]


def test_html_caption_is_text(tmp_path: Path) -> None:
    page = "<table><caption>Sizes in cm</caption><tr><td>A<td>1</table>"
    assert text(tmp_path, "page.html", page).startswith("Sizes in cm\n\n| A | 1 |")


@pytest.mark.parametrize("tag", ["div", "table><tr><td", "div class=sidebar", "ul><li", "main", "sup", "math><mrow"])
def test_html_nested_deeply_is_read(tmp_path: Path, tag: str) -> None:
    opened = "".join(f"<{each}>" for each in tag.split("><"))
    assert "inner words" in text(tmp_path, "page.html", "<p>One.</p>" + opened * 200 + "inner words")


# Tables in chunks


@pytest.mark.parametrize("name", ["table.html", "table.md"])
def test_chunks_of_a_table_repeat_its_header(tmp_path: Path, name: str, tokens: TokenCounter) -> None:
    rows = [("Zone", "Price"), *((f"Zone number {number}", f"{number} euros") for number in range(60))]
    if name.endswith(".md"):
        lines = [f"| {zone} | {price} |" for zone, price in rows]
        content = "\n".join(["# Rates", "", lines[0], "| --- | --- |", *lines[1:], "", "The end."])
    else:
        head, *body = [
            f"<{cell}>{zone}</{cell}><{cell}>{price}</{cell}>"
            for (zone, price), cell in zip(rows, ["th", *["td"] * 60], strict=True)
        ]
        content = (
            f"<h1>Rates</h1><table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table><p>The end.</p>"
        )
    (document,) = read(tmp_path, name, content)[0]
    settings = ChunkSettings(window_tokens=128, reserved_tokens=4, max_tokens=80, overlap_tokens=10, min_tokens=8)
    first, *others = Chunker(settings, tokens).spans(document)
    assert "| Zone | Price |" in document.text[first.start : first.end]
    assert "Zone | Price" not in first.heading_path
    continued = [span for span in others if document.text[span.start :].startswith("| Zone number")]
    assert len(continued) > 3
    for span in continued:
        assert span.heading_path[-1] == "Zone | Price"
        assert "Zone | Price" in span.prefix


# Markdown


@pytest.mark.parametrize(
    ("front_matter", "expected"),
    [
        (
            "title: Pump\ndate created: 2024-01-05\ntags: [a, b]",
            {"title": "Pump", "date created": "2024-01-05", "tags": "a, b"},
        ),
        ("title: >-\n  Pump\n  manual\nversion: 1.10", {"title": "Pump manual", "version": "1.10"}),
        (
            "Title: a plain value that\n  goes on\nlast update by: the crew",
            {"title": "a plain value that goes on", "last update by": "the crew"},
        ),
        ("title: Pump: the manual\ntags:\n  - a", {"title": "Pump: the manual"}),
        ("author:\n  name: Ida", {"author.name": "Ida"}),
        ("", {}),
    ],
)
def test_yaml_front_matter(front_matter: str, expected: dict[str, str]) -> None:
    assert split_front_matter(f"---\n{front_matter}\n---\n\nBody.") == (expected, "Body.")


def test_toml_front_matter() -> None:
    values, body = split_front_matter(
        '+++\ntitle = "Pump"\ndate = 2024-01-05\ndraft = false\n[params]\na = 1\n+++\nBody.'
    )
    assert values == {"title": "Pump", "date": "2024-01-05", "draft": False, "params.a": 1}
    assert body == "Body."


@pytest.mark.parametrize(
    "source", ["---\nJust words\n---\nMore.", "---\nNote: no end\n\nMore.", "---\n- a\n---\nMore."]
)
def test_a_rule_is_no_front_matter(source: str) -> None:
    assert split_front_matter(source) == ({}, source)


def test_aliases_in_front_matter_do_not_multiply() -> None:
    bomb = "a: &a {x: 1}\n" + "\n".join(f"b{number}: &b{number} {{y: *a, z: *a}}" for number in range(500))
    values, body = split_front_matter(f"---\n{bomb}\n---\nBody.")
    assert len(values) <= 200
    assert body == "Body."


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Seen <!-- secret --> text.\n\n- item <!-- todo -->", "Seen  text.\n\n- item"),
        ("One.\n\n<!-- a\n\nb -->\n\nTwo.", "One.\n\n\nTwo."),
        ("One.\n<style>\n.a { color: red }\n</style>\nTwo.", "One.\nTwo."),
        ("![plan](data:image/png;base64,QUJD) <img src='data:image/gif;base64,QUJD'>", "![plan]() <img src=''>"),
        ("`<!-- code -->` and ``a ` <style>`` stay", "`<!-- code -->` and ``a ` <style>`` stay"),
        (
            "```html\n<!-- kept -->\n```\n\n> ```\n> <!-- kept -->\n> ```",
            "```html\n<!-- kept -->\n```\n\n> ```\n> <!-- kept -->\n> ```",
        ),
        ("A ` here\n\n<!-- gone --> and ` there", "A ` here\n\n and ` there"),
        ("Never <!-- closed", "Never <!-- closed"),
    ],
)
def test_markdown_without_what_no_reader_sees(tmp_path: Path, source: str, expected: str) -> None:
    assert text(tmp_path, "page.md", source) == expected


# CSV

JAM, CURE = "The printer jams on paper that is very thick.", "Clean the roller with a cloth that is dry."


@pytest.mark.parametrize(
    ("source", "documents", "notice"),
    [
        (
            f"Ticket,Problem,Solution\n1,{JAM},{CURE}\n",
            [("", f"Problem: {JAM}\n\nSolution: {CURE}")],
            "",
        ),
        (
            '"The gate is locked at nine.","gate"\n"The pool opens at seven.","pool"\n',
            [("", "The gate is locked at nine."), ("", "The pool opens at seven.")],
            "does not look like a header",
        ),
        ("sep=;\nTitle;Content\nGate;Locked at nine, always.\n", [("Gate", "Locked at nine, always.")], ""),
        (
            'Title,Content\n"A, b","The gate; the big one; is locked."\n',
            [("A, b", "The gate; the big one; is locked.")],
            "",
        ),
        (
            'Title,Content\nLoft,"Open all day.\nYard,"The ""yard""\nis locked."\nHall,"Never.\n',
            [("Loft", "Open all day."), ("Yard", 'The "yard"\nis locked.'), ("Hall", "Never.")],
            "a quote is never closed: read as a character (rows 1, 3)",
        ),
        (
            "Title,Content\nGate,The gate, the big one.\n",
            [("Gate", "The gate, the big one.")],
            "more cells than the header",
        ),
        (
            "Title,Remark,Content\nGate," + "word " * 150 + ",Locked.\n",
            [("Gate", "Locked.\n\nRemark: " + ("word " * 150).strip())],
            "",
        ),
        (
            "Month,2022,2023\nJanuary,120,80\nMay,,90\n",
            [("", "Month: January; 2022: 120; 2023: 80\nMonth: May; 2023: 90")],
            "",
        ),
        ("January,120\nMay,130\n", [("", "Column 1: January; Column 2: 120\nColumn 1: May; Column 2: 130")], "header"),
    ],
)
def test_csv(tmp_path: Path, source: str, documents: list[tuple[str, str]], notice: str) -> None:
    found, notices = read(tmp_path, "table.csv", source)
    assert [document.text for document in found] == [content for _, content in documents]
    assert all(document.title == title for document, (title, _) in zip(found, documents, strict=True) if title)
    assert notice in " ".join(notices)
    assert bool(notices) == bool(notice)


def test_many_rows_become_several_documents(tmp_path: Path) -> None:
    found, _ = read(tmp_path, "table.csv", "a,b\n" + "1,2\n" * 1_001)
    assert [document.key for document in found] == ["rows 1", "rows 501", "rows 1001"]


# JSON


@pytest.mark.parametrize(
    ("value", "documents"),
    [
        ({"article": {"heading": "Gate", "body": "Locked."}}, [("article", "Gate", "Locked.")]),
        ({"a1": {"text": "One."}, "a2": {"title": "T", "text": "Two."}}, [("a1", "a1", "One."), ("a2", "T", "Two.")]),
        (["One.", "Two."], [("#1", "One.", "One."), ("#2", "Two.", "Two.")]),
        ([{"Page Title": "x", "Title": "Gate", "pageContent": "Locked."}], [("#1", "Gate", "Locked.")]),
        (
            [{"title": "Gate", "content": "Short.", "body": "Locked at nine."}],
            [("#1", "Gate", "Short.\n\nBody: Locked at nine.")],
        ),
        ([{"content": "Locked at nine.", "body": "at nine"}], [("#1", "Locked at nine.", "Locked at nine.")]),
        (
            {"data": [{"title": "Gate", "paragraphs": [{"context": "Locked.", "qas": [{"question": "Is it?"}]}]}]},
            [("#1/paragraphs#1", "Gate", "Locked.")],
        ),
        (
            {
                "title": "Help",
                "messages": [
                    {"role": "user", "content": "When?"},
                    {"role": "bot", "content": [{"type": "text", "text": "At nine."}]},
                ],
            },
            [("messages", "Help", "user: When?\n\nbot: At nine.")],
        ),
        ([{"question": "When?", "answer": "At nine."}], [("#1", "When?", "At nine.")]),
        (
            [{"id": 5, "title": {"rendered": "Gate"}, "content": {"rendered": "<p>Locked.</p>"}}],
            [("5", "Gate", "Locked.")],
        ),
        (
            {
                "title": "Guide",
                "text": "How to lock.",
                "sections": [{"heading": "A", "body": "Turn."}, {"body": "Pull."}],
            },
            [("#1", "Guide", "How to lock."), ("sections#1", "A", "Turn."), ("sections#2", "Guide", "Pull.")],
        ),
        (
            [{"month": "May", "sum": 120}, {"month": "June", "sum": None}],
            [("rows 1", "data", "Month: May; Sum: 120\nMonth: June")],
        ),
        ([{"text": ["One.", "Two."]}], [("#1", "One.", "One.\n\nTwo.")]),
    ],
)
def test_json(tmp_path: Path, value: object, documents: list[tuple[str, str, str]]) -> None:
    found, notices = read(tmp_path, "data.json", json.dumps(value))
    assert [(document.key, document.title, document.text) for document in found] == documents
    assert not notices


def test_json_names_the_fields_it_saw(tmp_path: Path) -> None:
    with pytest.raises(SkippedFileError, match=r"no text in its fields \('port', 'mode'\): name one of them 'text'"):
        read(tmp_path, "data.json", '{"port": 80, "mode": "fast"}')


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
@pytest.mark.parametrize("source", ['[{"text": "One."}, {"text": "Two."}]', '{"text": "One."}\n{"text": "Two."}\n'])
def test_arrays_and_lines_under_either_name(tmp_path: Path, name: str, source: str) -> None:
    assert [document.text for document in read(tmp_path, name, source)[0]] == ["One.", "Two."]


def test_evaluation_questions_beside_a_text_are_left_out(tmp_path: Path) -> None:
    source = '[{"text": "Locked at nine.", "questions": ["When?"], "metadata": {"answers": ["nine"], "site": "A"}}]'
    (document,) = read(tmp_path, "data.json", source)[0]
    assert document.text == "Locked at nine."
    assert document.metadata == {"site": "A"}


def test_json_nested_deeply_takes_linear_time(tmp_path: Path) -> None:
    source = '{"a": [' * 60 + '{"text": "One."}' + ', {"n": 1}' * 2_000 + "]}" * 60
    found, notices = read(tmp_path, "data.json", source)
    assert [document.text for document in found] == ["One."]
    assert notices == ["2000 of 2001 records hold no text"]


# Links


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/x y", "https://a.example/x y"),
        ("HTTP://a.example", "HTTP://a.example"),
        ("/docs/a.html#b", "/docs/a.html#b"),
        ("a/b:c", "a/b:c"),
        ("//a.example/x", "//a.example/x"),
        ("javascript:alert(1)", None),
        (" \u0001JavaScript:alert(1)", None),
        ("java\u200bscript:alert(1)", None),
        ("data:text/html,x", None),
        ("file:///etc/passwd", None),
        (" ", None),
        (None, None),
    ],
)
def test_links_are_http_or_relative(url: str | None, expected: str | None) -> None:
    assert web_address(url) == expected
