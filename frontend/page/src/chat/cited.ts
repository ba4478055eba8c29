/**
 * A rehype plugin: numbers in brackets become links to their sources, and sentences that no source supports are marked.
 *
 * Changes only text nodes, so that an answer cannot inject elements.
 */

import type { Element, ElementContent, Root, RootContent, Text } from "hast";
import type { Span } from "../api/wire";

export interface CitedStatement extends Span {
  unsupported: boolean;
  /** Number of the source with the best support; null if there is none or the sentence has markers already. */
  number: number | null;
}

export interface CitedOptions {
  /** The Markdown source that positions in the tree refer to. */
  source: string;
  /** In UTF-16 units of `source`, in order. */
  statements: readonly CitedStatement[];
  /** Valid source numbers. */
  numbers: ReadonlySet<number>;
}

const MARKER = /\[(\d{1,3})\]/g;

export function cited(options: CitedOptions) {
  return (tree: Root): void => {
    const announced = new Set<CitedStatement>();
    // Backwards, so that a statement's number follows its last word.
    tree.children = visit(tree.children, options, announced);
  };
}

function visit(
  children: readonly (ElementContent | RootContent)[],
  options: CitedOptions,
  announced: Set<CitedStatement>,
): (ElementContent | RootContent)[] {
  const result: (ElementContent | RootContent)[][] = [];
  for (const child of [...children].reverse()) {
    if (child.type === "text") result.push(pieces(child, options, announced));
    else if (child.type === "element" && child.tagName !== "pre" && child.tagName !== "a") {
      const within = visit(child.children, options, announced) as ElementContent[];
      result.push([{ ...child, children: within }]);
    } else result.push([child]);
  }
  return result.reverse().flat();
}

function pieces(node: Text, options: CitedOptions, announced: Set<CitedStatement>): ElementContent[] {
  const start = node.position?.start.offset;
  const end = node.position?.end.offset;
  if (start === undefined || end === undefined || !node.value.trim()) return markers(node.value, options);
  const exact = options.source.slice(start, end) === node.value;
  const found: ElementContent[][] = [];
  let rest = node.value;
  for (const statement of [...options.statements].reverse()) {
    if (statement.end <= start || statement.start >= end) continue;
    // If escapes or line breaks make the text differ from its source, mark the whole node or nothing.
    if (!exact && (statement.start > start || statement.end < end)) continue;
    const from = exact ? Math.max(statement.start - start, 0) : 0;
    const to = exact ? Math.min(statement.end - start, rest.length) : rest.length;
    if (to < rest.length) found.push(markers(rest.slice(to), options));
    found.push(stated(rest.slice(from, to), statement, options, announced));
    rest = rest.slice(0, from);
  }
  if (rest) found.push(markers(rest, options));
  return found.reverse().flat();
}

function stated(
  text: string,
  statement: CitedStatement,
  options: CitedOptions,
  announced: Set<CitedStatement>,
): ElementContent[] {
  if (!text.trim()) return [{ type: "text", value: text }];
  const last = !announced.has(statement);
  announced.add(statement);
  const inner = markers(text.trimEnd(), options);
  const space: ElementContent[] =
    text === text.trimEnd() ? [] : [{ type: "text", value: text.slice(text.trimEnd().length) }];
  if (statement.unsupported) {
    return [element("span", { dataUnsupported: last ? "last" : "more" }, inner), ...space];
  }
  const number = last ? statement.number : null;
  return number !== null && options.numbers.has(number) ? [...inner, cite(number), ...space] : [...inner, ...space];
}

function markers(text: string, { numbers }: CitedOptions): ElementContent[] {
  const found: ElementContent[] = [];
  let from = 0;
  for (const match of text.matchAll(MARKER)) {
    const number = Number(match[1]);
    if (!numbers.has(number)) continue;
    if (match.index > from) found.push({ type: "text", value: text.slice(from, match.index).replace(/ $/, "") });
    found.push(cite(number));
    from = match.index + match[0].length;
  }
  if (from < text.length) found.push({ type: "text", value: text.slice(from) });
  return found;
}

function cite(number: number): Element {
  return element("span", { dataCite: number }, []);
}

function element(tagName: string, properties: Element["properties"], children: ElementContent[]): Element {
  return { type: "element", tagName, properties, children };
}
