import { describe, expect, it } from "vitest";
import type { Citations, Source } from "../src/api/wire";
import { asked, type Answer } from "../src/chat/answer";
import { exported, withSources } from "../src/chat/exported";

const source = { number: 1, title: "Ducks", source: "ducks.md", url: "https://example.com/ducks" } as Source;

function answer(text: string, sentences: readonly [string, "supported" | "unsupported", number | null][]): Answer {
  const statements = sentences.map(([sentence, verdict, number]) => {
    const start = Array.from(text.slice(0, text.indexOf(sentence))).length;
    return { span: { start, end: start + Array.from(sentence).length }, verdict, quotes: number ? [{ number }] : [] };
  });
  const citations = { text, statements } as unknown as Citations;
  return { ...asked(true, 0), status: "done", text, sources: [source], citations };
}

describe("a copied answer", () => {
  it("has the numbers that the page shows, and its sources", () => {
    const copied = withSources(
      answer("😀 Ducks swim. Geese fly [1]. Cats bark. End.", [
        ["😀 Ducks swim.", "supported", 1],
        ["Geese fly [1].", "supported", 1],
        ["Cats bark.", "unsupported", 1],
        ["End.", "supported", null],
      ]),
    );
    expect(copied).toBe("😀 Ducks swim. [1] Geese fly [1]. Cats bark. End.\n\n[1] Ducks <https://example.com/ducks>");
  });
});

describe("an exported conversation", () => {
  it("has questions, answers and sources", () => {
    const turns = [
      { id: "1", question: "Do ducks\nswim?", settings: {} as never, answers: [answer("Yes [1].", [])] },
      { id: "2", question: "And cats?", settings: {} as never, answers: [{ ...asked(true, 0), refused: true }] },
    ];
    expect(exported({ id: "c", title: "Ducks", createdAt: 0, updatedAt: 0, turns })).toBe(
      [
        "# Ducks",
        "1970-01-01",
        "## Do ducks swim?",
        "Yes [1].",
        "[1] Ducks <https://example.com/ducks>",
        "## And cats?",
        "The documents do not answer this question.\n",
      ].join("\n\n"),
    );
  });
});
