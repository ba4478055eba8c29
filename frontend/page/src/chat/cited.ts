/**
 * A rehype plugin: numbers in brackets become links to their sources, and sentences that no source supports are marked.
 *
 * Works on the text of the tree alone, so that nothing an answer contains can become more than text.
 */

import type { Element, ElementContent, Root, RootContent, Text } from "hast";
import type { Span } from "../api/wire";

export interface CitedStatement extends Span {
  unsupported: boolean;
  /** Number of the source that supports it best; null where none does, or where it names its sources itself. */
  number: number | null;
}

export interface CitedOptions {
  /** The Markdown text: positions in the tree are of it. */
  source: string;
  /** In UTF-16 units of `source`, in order. */
  statements: readonly CitedStatement[];
  /** Numbers that there are sources for. */
  numbers: ReadonlySet<number>;
}

const MARKER = /\[(\d{1,3})\]/g;

export function cited(options: CitedOptions) {
  return (tree: Root): void => {
    const told = new Set<CitedStatement>();
    // From the end, so that a statement's number stands after the last of its words.
    tree.children = visit(tree.children, options, told);
  };
}

function visit(
  children: readonly (ElementContent | RootContent)[],
  options: CitedOptions,
  told: Set<CitedStatement>,
): (ElementContent | RootContent)[] {
  const result: (ElementContent | RootContent)[][] = [];
  for (const child of [...children].reverse()) {
    if (child.type === "text") result.push(pieces(child, options, told));
    else if (child.type === "element" && child.tagName !== "pre" && child.tagName !== "a") {
      const within = visit(child.children, options, told) as ElementContent[];
      result.push([{ ...child, children: within }]);
    } else result.push([child]);
  }
  return result.reverse().flat();
}

function pieces(node: Text, options: CitedOptions, told: Set<CitedStatement>): ElementContent[] {
  const start = node.position?.start.offset;
  const end = node.position?.end.offset;
  if (start === undefined || end === undefined || !node.value.trim()) return markers(node.value, options);
  const exact = options.source.slice(start, end) === node.value;
  const found: ElementContent[][] = [];
  let rest = node.value;
  for (const statement of [...options.statements].reverse()) {
    if (statement.end <= start || statement.start >= end) continue;
    // Where escapes or line breaks make the text another than its source, a piece is marked whole or not at all.
    if (!exact && (statement.start > start || statement.end < end)) continue;
    const from = exact ? Math.max(statement.start - start, 0) : 0;
    const to = exact ? Math.min(statement.end - start, rest.length) : rest.length;
    if (to < rest.length) found.push(markers(rest.slice(to), options));
    found.push(stated(rest.slice(from, to), statement, options, told));
    rest = rest.slice(0, from);
  }
  if (rest) found.push(markers(rest, options));
  return found.reverse().flat();
}

function stated(
  text: string,
  statement: CitedStatement,
  options: CitedOptions,
  told: Set<CitedStatement>,
): ElementContent[] {
  if (!text.trim()) return [{ type: "text", value: text }];
  const last = !told.has(statement);
  told.add(statement);
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
