"""reStructuredText, MDX, YAML, XML and exports of Evernote: the words that are kept, and their structure."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from ingest.errors import SkippedFileError
from ingest.loaders import ParsedDocument
from tests.ingest.reading import read


def text(folder: Path, name: str, content: str) -> str:
    ((document,), notices) = read(folder, name, content)
    assert not notices
    return document.text


def headings(document: ParsedDocument) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in document.headings]


# reStructuredText


@pytest.mark.parametrize(
    ("rst", "expected"),
    [
        ("The *kiln* opens at ``first light``. H\\ :sub:`2`\\ O.", "The kiln opens at first light. H₂O."),
        (
            "See :ref:`the plan <plan>`, :py:class:`~kiln.Door`, |x|.\n\n.. |x| replace:: six",
            "See the plan, Door, six.",
        ),
        (".. note:: Never exceed\n   7 bar.", "Note: Never exceed 7 bar."),
        (".. versionadded:: 2.0\n   Fast mode.", "New in 2.0 Fast mode."),
        (".. tab-item:: Linux\n   :sync: l\n\n   * One\n   * Two", "Linux\n\n- One\n- Two"),
        (".. code-block:: python\n   :emphasize-lines: 1\n\n   a = 1\n     b", "```python\na = 1\n  b\n```"),
        ("So::\n\n  a\n    b", "So:\n\n```\na\n  b\n```"),
        ("1. Fill\n2. Close\n\n   - slowly", "1. Fill\n2. Close\n  - slowly"),
        (
            ".. list-table:: Zones\n   :header-rows: 1\n\n   * - Zone\n     - Peak\n   * - A\n     - 4",
            "Zones\n\n| Zone | Peak |\n| --- | --- |\n| A | 4 |",
        ),
        ("Lit [1]_.\n\n.. [1] In summer.", "Lit [1].\n\n[1] In summer."),
        (".. figure:: a.png\n   :alt: the plan\n\n   The caption.", "the plan\n\nThe caption."),
        ("One.\n\n.. toctree::\n\n   a\n   b\n\n.. raw:: html\n\n   <b>x</b>\n\n.. a comment", "One."),
        # What cannot be parsed stays as written.
        ("One.\n\n.. image:: a.png\n   :size: 4\n", "One.\n\n```\n.. image:: a.png\n   :size: 4\n```"),
        (".. only:: html\n\n   In only.", "In only."),
    ],
)
def test_restructured_text(tmp_path: Path, rst: str, expected: str) -> None:
    assert text(tmp_path, "a.rst", rst) == expected


def test_headings_and_fields_of_restructured_text(tmp_path: Path) -> None:
    content = "====\nKiln\n====\n\n:Author: A. Potter\n:Date: 2024-05-06\n\nHeat\n====\nHot.\n\nHow\n---\nSo.\n"
    ((found,), _) = read(tmp_path, "a.rst", content)
    assert headings(found) == [(1, "Kiln"), (2, "Heat"), (3, "How")]
    assert (found.title, found.metadata["author"], found.metadata["year"]) == ("Kiln", "A. Potter", 2024)
    ((found,), _) = read(tmp_path, "a.rst", "One\n===\nAir.\n\nTwo\n===\nBar.\n")
    assert headings(found) == [(1, "One"), (1, "Two")]


def test_restructured_text_reads_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    names = f"{tmp_path}/secret.txt"
    content = f"One.\n\n.. include:: {names}\n\n.. csv-table::\n   :file: {names}\n\n.. literalinclude:: {names}\n"
    ((found,), notices) = read(tmp_path, "a.rst", content)
    assert "secret\n" not in found.text
    assert found.text.startswith("One.")
    assert notices == [f"the files that it includes are not read with it: {names}"]


# MDX


def test_mdx_keeps_its_words(tmp_path: Path) -> None:
    content = """---
title: Kiln use
---
import Tabs from '@theme/Tabs';
import {
  A,
} from "b"
export const meta = {
  a: 1,

  b: 2,
}

# Kiln

import duties apply. `<Tag>` stays, a < b and c > d, {props.x}. {/* hidden */}

<Tabs>
  <TabItem value="l" label="Linux" onClick={() => { go({a: 1}) }}>

    ## Inner

    Text <Mark color="red">two</Mark>.

    ```jsx
    import X from 'y'
    <Tag a="b"/>
    ```
  </TabItem>
</Tabs>
<Card title="Start here" href='/x' />
"""
    ((found,), _) = read(tmp_path, "a.mdx", content)
    assert " ".join(found.text.split()) == (
        "# Kiln import duties apply. `<Tag>` stays, a < b and c > d, {props.x}. Linux ## Inner Text two. "
        "```jsx import X from 'y' <Tag a=\"b\"/> ``` Start here"
    )
    assert (found.title, headings(found)) == ("Kiln use", [(1, "Kiln"), (2, "Inner")])


def test_mdx_with_an_export_that_never_ends_keeps_the_rest(tmp_path: Path) -> None:
    assert text(tmp_path, "a.mdx", "export const a = {\n\nThe kiln opens.") == "The kiln opens."


# YAML and logs


def test_yaml_has_its_upper_keys_as_headings(tmp_path: Path) -> None:
    content = (
        "openapi: 3.1.0\ninfo:\n  title: Kilns – API\npaths:\n  /kilns:\n    get:\n      summary: List\n"
        "  /doors: {get: {x: 1}}\ntags: [a]\n? [x, y]\n: z\n---\nmetadata: &m\n  name: two\n  labels:\n  - a\ncopy: *m"
    )
    ((found,), notices) = read(tmp_path, "api.yaml", content)
    assert (found.title, found.text, notices) == ("Kilns – API", content, [])
    expected = [(1, "info"), (1, "paths"), (2, "/kilns"), (1, "metadata"), (2, "labels")]
    assert headings(found) == expected
    assert found.text[found.headings[2].start : found.headings[2].end] == "  /kilns:"


def test_a_template_of_yaml_is_read_as_text(tmp_path: Path) -> None:
    ((found,), (notice,)) = read(tmp_path, "values.yml", 'a: 1\nb: {{ .Values.b }}\nc: "d\n')
    assert found.text == 'a: 1\nb: {{ .Values.b }}\nc: "d'
    assert found.title == "values"
    assert notice.startswith("read as plain text: not valid YAML in line ")


def test_aliases_of_yaml_are_not_expanded(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    assert text(tmp_path, "bomb.yaml", "\n".join(lines)) == "\n".join(lines)


def test_a_log_has_no_colours(tmp_path: Path) -> None:
    assert text(tmp_path, "a.log", "12:00 \x1b[31mERROR\x1b[0m door\n12:01 ok\n") == "12:00 ERROR door\n12:01 ok"


# XML


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        # DocBook
        (
            "<article><info><title>Kiln</title></info><section><title>Heat&nbsp;now</title><para>The "
            "<emphasis>kiln</emphasis><footnote><para>Old.</para></footnote> opens.<indexterm><primary>x</primary>"
            "</indexterm></para></section></article>",
            "# Kiln\n\n## Heat now\n\nThe kiln (Old.) opens.",
        ),
        (
            "<chapter><note><para>Hot.</para></note><warning><title>Bar</title><para>7.</para></warning>"
            "<programlisting language='c'>a\n  b</programlisting></chapter>",
            "Note: Hot.\n\nBar: 7.\n\n```c\na\n  b\n```",
        ),
        (
            "<section><orderedlist><listitem><para>Fill</para><itemizedlist><listitem><para>Slow</para></listitem>"
            "</itemizedlist></listitem></orderedlist><variablelist><varlistentry><term>Port</term><listitem><para>9"
            "</para></listitem></varlistentry></variablelist></section>",
            "1. Fill\n  - Slow\n- Port: 9",
        ),
        (
            "<table><title>Zones</title><tgroup cols='2'><colspec/><thead><row><entry>Zone</entry><entry>Peak</entry>"
            "</row></thead><tbody><row><entry morerows='1'>A</entry><entry>4</entry></row><row><entry>5</entry></row>"
            "</tbody></tgroup></table>",
            "Zones\n\n| Zone | Peak |\n| --- | --- |\n| A | 4 |\n| A | 5 |",
        ),
        # DITA
        (
            '<!DOCTYPE topic PUBLIC "-//OASIS//DTD DITA Topic//EN" "topic.dtd"><topic><title>Kiln</title><body>'
            "<note type='tip'>Cold.</note><simpletable><sthead><stentry>A</stentry><stentry>B</stentry></sthead><strow>"
            "<stentry>1</stentry><stentry>2</stentry></strow></simpletable></body></topic>",
            "# Kiln\n\nTip: Cold.\n\n| A | B |\n| --- | --- |\n| 1 | 2 |",
        ),
        # Feeds and records
        (
            "<rss><channel><title>News</title><item><title>One</title><pubDate>6 May</pubDate>"
            "<description>&lt;p&gt;Hello <![CDATA[<b>you</b></p>]]></description></item></channel></rss>",
            "# News\n\n## One\n\npubDate: 6 May\n\nHello you",
        ),
        (
            "<stock><kiln id='3'><name>K 1</name><price cur='EUR'>4</price><size w='3' h='4'/></kiln></stock>",
            "name: K 1; price: 4; size: w 3, h 4",
        ),
        ('<html xmlns="http://www.w3.org/1999/xhtml"><body><p>One.</p></body></html>', "One."),
    ],
)
def test_xml(tmp_path: Path, xml: str, expected: str) -> None:
    assert text(tmp_path, "a.xml", xml) == expected


def test_xml_loads_nothing(tmp_path: Path) -> None:
    (tmp_path / "b.xml").write_text("<p>secret</p>")
    include = '<p xmlns:xi="http://www.w3.org/2001/XInclude">One.<xi:include href="b.xml"/></p>'
    ((found,), notices) = read(tmp_path, "a.xml", f'<!DOCTYPE p SYSTEM "{tmp_path}/p.dtd">{include}')
    assert (found.text, notices) == ("One.", ["the files that it includes are not read with it: b.xml"])
    with pytest.raises(SkippedFileError, match=r"invalid XML: Entity 'mine' not defined"):
        read(tmp_path, "a.xml", "<p>&mine;</p>")


# Evernote


def export(*notes: str) -> str:
    return f'<!DOCTYPE en-export SYSTEM "x.dtd"><en-export>{"".join(notes)}</en-export>'


def note(title: str, body: str, more: str = "") -> str:
    return (
        f"<note><title>{title}</title><content><![CDATA[<!DOCTYPE en-note><en-note>{body}</en-note>]]>"
        f"</content><created>20240506T080000Z</created>{more}</note>"
    )


def test_notes_of_evernote(tmp_path: Path) -> None:
    prices = base64.b64encode(b"Zone,Price\nA,4\n").decode()
    more = (
        "<tag>pottery</tag><tag>heat</tag><note-attributes><source-url>https://example.org/k</source-url>"
        f"</note-attributes><resource><data encoding='base64'>{prices}</data><mime>text/csv</mime></resource>"
    )
    body = '<h1>Kiln</h1><div><en-todo checked="true"/>Fill</div><div><en-todo/>Close</div>'
    documents, notices = read(tmp_path, "a.enex", export(note("One", body, more), note("Two", "<div>B.</div>")))
    assert [(document.key, document.title, document.text) for document in documents] == [
        ("20240506T080000Z One", "One", "# Kiln\n\n[x] Fill\n\n[ ] Close"),
        ("20240506T080000Z One/attachment.csv/rows 1", "attachment", "Zone: A; Price: 4"),
        ("20240506T080000Z Two", "Two", "B."),
    ]
    assert documents[0].metadata["tags"] == "pottery, heat"
    assert (documents[0].metadata["date"], documents[0].url) == ("2024-05-06", "https://example.org/k")
    assert not notices


def test_notes_before_a_broken_one_are_read(tmp_path: Path) -> None:
    content = export(note("One", "A."), note("One", "B."))[:-12] + "<note><title>"
    documents, (notice,) = read(tmp_path, "a.enex", content)
    assert [document.text for document in documents] == ["A.", "B."]
    assert documents[1].key == "20240506T080000Z One (2)"
    assert notice.startswith("read up to note 2 only: invalid XML")
