import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, it } from "vitest";
import Rendered from "../src/documents/rendered";
import { places } from "../src/markdown/marked";
import type { Mark } from "../src/text/highlight";
import { isMarkdown } from "../src/text/layout";

const html = (source: string, marks: readonly Mark[] = []) =>
  renderToStaticMarkup(<Rendered source={source} marks={marks} number={1} />);

/** The rendered text of the marked pieces of a kind, without the hidden announcement. */
const marked = (source: string, words: string, kind = "quote") => {
  const start = source.indexOf(words);
  const marks: Mark[] = [
    { kind: "passage", start: 0, end: source.length, number: 1 },
    { kind: "quote", start, end: start + words.length, number: 1 },
  ];
  return [...html(source, marks).matchAll(/<mark[^>]*class="(\w+) active"[^>]*>(.*?)<\/mark>/gs)]
    .filter(([, found]) => found === kind)
    .map(([, , text]) => (text ?? "").replace(/<span class="sr-only">.*?<\/span>/, ""))
    .join("");
};

describe("a rendered document", () => {
  it("has no signs of Markdown", () => {
    const shown = html(
      "## Title\n\nSome **bold** `code` and a [link](https://example.com).\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    );
    expect(shown).toContain('<h4 dir="auto">Title</h4>');
    expect(shown).toContain("<strong>bold</strong>");
    expect(shown).toContain("<code>code</code>");
    expect(shown).toContain('href="https://example.com"');
    expect(shown).toContain('<td dir="auto">1</td>');
  });

  it.each([
    ["A **bold claim** that is cited. And more.", "bold claim** that is cited", "bold claim that is cited"],
    ["One \\* escaped \\_ sign. Next.", "escaped \\_ sign", "escaped _ sign"],
    ["Fish &amp; chips &copy; cost &#128512; money.", "chips &copy; cost &#128512;", "chips © cost 😀"],
    ["> A quote\n> over two lines.\n\nEnd.", "quote\n> over two", "quote\nover two"],
    ["- first\n- second item\n  goes on\n", "second item\n  goes", "second item\ngoes"],
    ["```python\nprint(python)\n```\n", "print(python)", "print(python)"],
    ["| a | b |\n|---|---|\n| one | two three |\n", "two three", "two three"],
    ["# 标题 😀 text\n\nأهلا وسهلا بكم.", "😀 text", "😀 text"],
    ["<b>HTML</b> is shown.", "<b>HTML</b> is", "&lt;b&gt;HTML&lt;/b&gt; is"],
  ])("marks exactly the quote of %j", (source, words, shown) => {
    expect(marked(source, words)).toBe(shown);
  });

  it("keeps its markup when a passage covers all of it", () => {
    const source = "# Title\n\nText.";
    expect(html(source, [{ kind: "passage", start: 0, end: source.length, number: 1 }])).toMatch(
      /<h3[^>]*><mark[^>]*><span class="sr-only">Source 1: <\/span>Title<\/mark><\/h3>/,
    );
  });

  it("runs nothing", () => {
    const shown = html("<script>alert(1)</script>\n\n[x](javascript:alert(1)) ![y](data:text/html,z)");
    expect(shown).not.toContain("<script");
    expect(shown).not.toMatch(/href="(?!https?:)/);
    expect(shown).not.toContain("<img");
  });

  it("names boxes and languages, and lets tables and code scroll", () => {
    const shown = html("- [x] one\n- [ ] two\n\n```sql\nselect 1\n```\n\n| a |\n|---|\n| 1 |\n");
    expect(shown).toContain('aria-label="Done"');
    expect(shown).toContain('aria-label="To do"');
    expect(shown).toContain("<span>sql</span>");
    expect(shown.match(/tabindex="0"/g)).toHaveLength(2);
  });
});

describe("places of a text in its source", () => {
  it("stay in order and in bounds when the parser wrote something else", () => {
    expect(places("a?b", "a \u0000 b", 0, 5)).toEqual([0, 1, 4]);
  });
});

describe("documents that are Markdown", () => {
  it.each([
    ["a.md", true],
    ["a.HTML", true],
    ["https://example.com/handbook", true],
    ["https://example.com/data.csv", false],
    ["a.txt", false],
    ["a.py", false],
  ])("%s: %s", (source, markdown) => expect(isMarkdown(source)).toBe(markdown));
});
