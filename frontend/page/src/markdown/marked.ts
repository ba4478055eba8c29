/**
 * A rehype plugin: marks ranges of the Markdown source in the rendered document.
 *
 * Changes only text nodes, so that a document cannot inject elements.
 */

import type { Element, ElementContent, Root, RootContent } from "hast";
import type { Mark } from "../text/highlight";

export interface MarkedOptions {
  /** The Markdown source that positions in the tree refer to. */
  source: string;
  /** In UTF-16 units of `source`. */
  marks: readonly Mark[];
}

export function marked({ source, marks }: MarkedOptions) {
  return (tree: Root): void => {
    const announced = new Set<number>();
    const visit = <Node extends ElementContent | RootContent>(node: Node, within: Node | null): ElementContent[] => {
      // Without rehype-raw, HTML is shown as text.
      if (node.type === "text" || (node.type as string) === "raw") {
        const value = (node as { value: string }).value;
        const { start, end } = (node.position ?? within?.position) || {};
        if (start?.offset === undefined || end?.offset === undefined) return [{ type: "text", value }];
        return pieces(value, places(value, source, start.offset, end.offset), marks, announced);
      }
      if (node.type === "element") node.children = node.children.flatMap((child) => visit(child, node as never));
      return [node as ElementContent];
    };
    tree.children = tree.children.flatMap((child) => visit(child, null));
  };
}

const FENCE = /^[ \t]*(`{3,}|~{3,})[^\n]*\n/;
const ENTITY = /^&#?\w{1,32};/;

/**
 * The place in the source of each unit of a rendered text, between `start` and `end`.
 *
 * The source has more: escapes, fences, markers of quotes and lists; and entities instead of characters.
 */
export function places(value: string, source: string, start: number, end: number): number[] {
  const entityAt = (at: number) =>
    source.charAt(at) === "&" ? ENTITY.exec(source.slice(at, at + 36))?.[0] : undefined;
  const found: number[] = [];
  let from = start + (FENCE.exec(source.slice(start, end))?.[0].length ?? 0);
  for (let i = 0; i < value.length; i++) {
    let to = from;
    while (to < end && !same(value.charAt(i), source.charAt(to)) && !entityAt(to)) to++;
    if (to >= end) {
      found.push(from); // written by the parser
      continue;
    }
    found.push(to);
    const entity = entityAt(to);
    if (!entity || value.startsWith(entity, i)) from = to + 1;
    else {
      // A character outside the BMP is two units.
      if (/[\udc00-\udfff]/.test(value.charAt(i + 1))) {
        found.push(to);
        i++;
      }
      from = to + entity.length;
    }
  }
  return found;
}

const same = (a: string, b: string) => a === b || (/\s/.test(a) && /\s/.test(b));

function pieces(
  value: string,
  at: readonly number[],
  marks: readonly Mark[],
  announced: Set<number>,
): ElementContent[] {
  const result: ElementContent[] = [];
  let from = 0;
  let before: Look = NONE;
  for (let i = 0; i <= value.length; i++) {
    const look = i < value.length ? lookAt(at[i] as number, marks) : null;
    if (look && look.number === before.number && look.quote === before.quote) continue;
    if (i > from) result.push(piece(value.slice(from, i), before, announced));
    from = i;
    before = look ?? NONE;
  }
  return result;
}

interface Look {
  number: number | null;
  quote: boolean;
}

const NONE: Look = { number: null, quote: false };

/** The passage at a place (of two, the earlier one), and whether a quote covers it. */
function lookAt(place: number, marks: readonly Mark[]): Look {
  let passage: Mark | undefined;
  let quote: Mark | undefined;
  for (const mark of marks) {
    if (place < mark.start || place >= mark.end) continue;
    if (mark.kind === "quote") quote ??= mark;
    else if (!passage || mark.start < passage.start) passage = mark;
  }
  const number = passage?.number ?? quote?.number;
  return number === undefined ? NONE : { number, quote: quote !== undefined };
}

function piece(value: string, { number, quote }: Look, announced: Set<number>): ElementContent {
  if (number === null) return { type: "text", value };
  const first = !announced.has(number);
  announced.add(number);
  const properties = { dataNumber: number, dataQuote: quote, dataFirst: first };
  return { type: "element", tagName: "mark", properties, children: [{ type: "text", value }] } satisfies Element;
}
