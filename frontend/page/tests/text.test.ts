import { describe, expect, it } from "vitest";
import { clean, isBinary, refusal } from "../src/text/clean";
import { codePoints, toUnits } from "../src/text/codepoints";
import { bytes, duration, headline } from "../src/text/format";
import { blocks, type Mark } from "../src/text/highlight";
import { layout } from "../src/text/layout";
import { paragraphs } from "../src/text/paragraphs";
import { safeUrl } from "../src/text/urls";

const PLAIN = { runs: [], soft: [] };

describe("code points", () => {
  it.each([
    ["", 0],
    ["abc", 3],
    ["a😀b", 3],
    ["👩‍👩‍👧", 5],
    ["𝒳", 1],
  ])("of %j are %i", (text, count) => {
    expect(codePoints(text)).toBe(count);
    expect(codePoints(text)).toBe(Array.from(text).length);
  });

  it("become units, in one pass and in the order of the spans", () => {
    const text = "😀 duck 😀😀 swan é";
    const points = Array.from(text);
    const spans = [
      { start: 10, end: 14 },
      { start: 2, end: 6 },
      { start: 0, end: points.length },
      { start: 7, end: 9 },
    ];
    const cut = toUnits(text, spans).map(({ start, end }) => text.slice(start, end));
    expect(cut).toEqual(spans.map(({ start, end }) => points.slice(start, end).join("")));
  });

  it("end with the text", () => {
    expect(toUnits("ab", [{ start: 1, end: 9 }])).toEqual([{ start: 1, end: 2 }]);
    expect(toUnits("😀b", [{ start: 1, end: 9 }])).toEqual([{ start: 2, end: 3 }]);
  });
});

describe("blocks", () => {
  const text = Array.from({ length: 400 }, (_, i) => `Line ${i} of a text with a 😀 in it.\n`).join("");
  const mark = (kind: Mark["kind"], start: number, end: number, number = 1): Mark => ({ kind, start, end, number });
  const marked = (marks: Mark[], want: (piece: { passage: number | null; quote: boolean }) => boolean) =>
    blocks(text, marks, PLAIN)
      .flatMap(({ pieces }) => pieces.filter(want))
      .map((piece) => piece.text)
      .join("");

  it("are the text", () => {
    const found = blocks(text, [mark("passage", 100, 5000)], PLAIN);
    expect(found.flatMap(({ pieces }) => pieces.map((piece) => piece.text)).join("")).toBe(text);
    expect(found.length).toBeGreaterThan(5);
  });

  it("mark exactly the passages, over the bounds of blocks", () => {
    expect(marked([mark("passage", 100, 5000)], ({ passage }) => passage === 1)).toBe(text.slice(100, 5000));
  });

  it("mark quotes within passages", () => {
    const marks = [mark("passage", 100, 5000), mark("quote", 1400, 1700)];
    expect(marked(marks, ({ quote }) => quote)).toBe(text.slice(1400, 1700));
  });

  it("give a stretch of two passages to the earlier", () => {
    const marks = [mark("passage", 100, 300, 1), mark("passage", 200, 400, 2)];
    expect(marked(marks, ({ passage }) => passage === 2)).toBe(text.slice(300, 400));
  });

  it("cut a line without end, but no character", () => {
    const line = "😀".repeat(20_000);
    const pieces = blocks(line, [], PLAIN).flatMap((block) => block.pieces.map((piece) => piece.text));
    expect(pieces.join("")).toBe(line);
    expect(pieces.every((piece) => !/^[\udc00-\udfff]/.test(piece))).toBe(true);
  });
});

describe("the layout of a document", () => {
  const wrapped = `${"A paragraph whose lines were wrapped where the editor ended them".padEnd(70, "x")}\ngoes on here.\n`;

  it("shows what only wraps as a space, and keeps every position", () => {
    const found = blocks(wrapped, [], layout(wrapped, "a.md"));
    const shown = found.flatMap(({ pieces }) => pieces.map((piece) => piece.text)).join("");
    expect(shown).toBe(wrapped.replace("x\ng", "x g"));
  });

  it("leaves code, tables, lists and other kinds of files alone", () => {
    const text = `# Title\n\n- item\n- item\n\n\`\`\`\n${wrapped}\`\`\`\n| a | b |\n`;
    const { runs, soft } = layout(text, "a.md");
    expect(soft).toEqual([]);
    expect(runs.map(({ kind, start, end }) => [kind, text.slice(start, end)])).toEqual([
      ["heading", "# Title\n"],
      ["code", `\`\`\`\n${wrapped}\`\`\`\n| a | b |\n`],
    ]);
    expect(layout(wrapped, "a.csv")).toEqual(PLAIN);
  });
});

describe("pasted text", () => {
  it("loses control characters and keeps everything else", () => {
    expect(clean("a\u0007b\r\nc\td\u200d😀\ud83d")).toEqual({ text: "ab\nc\td\u200d😀", removed: 2 });
  });

  it.each([
    ["%PDF-1.7\u0000\u0001", true],
    ["\ufffd\ufffd\ufffd PNG", true],
    ["An ordinary question, with a \u0007 in it?", false],
    ["", false],
  ])("%j is of a file: %s", (text, binary) => {
    expect(isBinary(text)).toBe(binary);
  });

  it("is refused with the limit when it is too long", () => {
    expect(refusal("😀".repeat(100_000))).toBeNull();
    expect(refusal("😀".repeat(100_001))).toContain("100,001");
  });
});

describe("formats", () => {
  it("durations", () => {
    expect([0.42, 9.96, 12.4, 999.4, 1234, 125_000].map(duration)).toEqual([
      "0.4 ms",
      "10 ms",
      "12 ms",
      "999 ms",
      "1.2 s",
      "2 min 5 s",
    ]);
  });

  it("sizes", () => {
    expect([0, 999, 1500, 20_000_000].map(bytes)).toEqual(["0 B", "999 B", "1.5 kB", "20 MB"]);
  });

  it("headlines", () => {
    expect(headline("  What is\tit?\nMore")).toBe("What is it?");
    expect(headline("word ".repeat(40)).length).toBeLessThanOrEqual(60);
    expect(headline("😀".repeat(500))).toMatch(/^(😀)+…$/u);
  });
});

describe("paragraphs of an answer that is being written", () => {
  it.each([
    ["One.\n\nTwo.", ["One.\n", "Two."]],
    ["- a\n\n- b", ["- a\n\n- b"]],
    ["```\na\n\nb\n```\n\nc", ["```\na\n\nb\n```\n", "c"]],
    ["", [""]],
  ])("%j", (text, parts) => {
    expect(paragraphs(text)).toEqual(parts);
    expect(paragraphs(text).join("\n")).toBe(text);
  });
});

describe("addresses", () => {
  it.each([
    "javascript:alert(1)",
    " JaVaScRiPt:alert(1)",
    "data:text/html,x",
    "vbscript:x",
    "//evil.example",
    "/x",
    "",
  ])("%j is none", (url) => expect(safeUrl(url)).toBe(""));
  it.each(["https://example.com/a?b#c", "http://example.com", "mailto:a@example.com"])("%s is one", (url) =>
    expect(safeUrl(url)).toBe(url),
  );
});
