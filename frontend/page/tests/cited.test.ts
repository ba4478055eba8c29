import type { Element, Root, RootContent } from "hast";
import { describe, expect, it } from "vitest";
import { cited, type CitedOptions } from "../src/chat/cited";

/** A tree with one paragraph of this text, as remark makes it. */
function paragraph(source: string): Root {
  const position = { start: { line: 1, column: 1, offset: 0 }, end: { line: 1, column: 1, offset: source.length } };
  const text = { type: "text" as const, value: source, position };
  return { type: "root", children: [{ type: "element", tagName: "p", properties: {}, children: [text] }] };
}

function shown(source: string, options: Partial<CitedOptions>): string {
  const tree = paragraph(source);
  cited({ source, statements: [], numbers: new Set([1, 2]), ...options })(tree);
  const write = (node: RootContent | Element["children"][number]): string => {
    if (node.type === "text") return node.value;
    if (node.type !== "element") return "";
    const inner = node.children.map(write).join("");
    if (node.properties["dataCite"]) return `<${String(node.properties["dataCite"])}>`;
    return node.properties["dataUnsupported"] ? `{${inner}}` : inner;
  };
  return tree.children.map(write).join("");
}

describe("what an answer cites", () => {
  it("links the numbers of its sources and no other brackets", () => {
    expect(shown("Ducks swim [1], swans too [2][9] [x].", {})).toBe("Ducks swim<1>, swans too<2>[9] [x].");
  });

  it("marks sentences that no source supports, and names the source of the others", () => {
    const statements = [
      { start: 0, end: 12, unsupported: false, number: 2 },
      { start: 12, end: 22, unsupported: true, number: null },
    ];
    expect(shown("Ducks swim. Cats fly.", { statements })).toBe("Ducks swim.<2> {Cats fly.}");
  });

  it("leaves a sentence alone that names its sources itself", () => {
    const statements = [{ start: 0, end: 15, unsupported: false, number: null }];
    expect(shown("Ducks swim [1].", { statements })).toBe("Ducks swim<1>.");
  });
});
