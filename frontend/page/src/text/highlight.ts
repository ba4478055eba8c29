/** Splits a long text into blocks with marked ranges. */

import type { Span } from "../api/wire";
import type { Layout, Run } from "./layout";

export interface Mark extends Span {
  kind: "passage" | "quote";
  /** Number of the source. */
  number: number;
}

export interface Piece {
  text: string;
  /** Number of the source whose passage contains this range; null outside of passages. */
  passage: number | null;
  quote: boolean;
  /** The passage begins here. */
  first: boolean;
  look: Run["kind"] | null;
}

export interface Block extends Span {
  pieces: Piece[];
  marked: boolean;
}

const BLOCK_UNITS = 1500;

/**
 * Splits `text` into blocks of whole lines, about 1,500 units each, so that the browser can skip blocks out of view.
 *
 * @param marks in UTF-16 units; quotes may lie in passages, and passages may overlap: the earlier one wins.
 */
export function blocks(text: string, marks: readonly Mark[], { runs, soft }: Layout): Block[] {
  const passages = apart(marks.filter((mark) => mark.kind === "passage"));
  const quotes = apart(marks.filter((mark) => mark.kind === "quote"));
  const edges = [...new Set([...passages, ...quotes, ...runs].flatMap(({ start, end }) => [start, end]))];
  edges.sort((a, b) => a - b);
  const found: Block[] = [];
  let edge = 0;
  for (let start = 0; start < text.length;) {
    const end = blockEnd(text, start);
    const pieces: Piece[] = [];
    for (let from = start; from < end;) {
      while ((edges[edge] ?? Infinity) <= from) edge++;
      const to = Math.min(edges[edge] ?? Infinity, end);
      const passage = covering(passages, from);
      const quote = covering(quotes, from);
      pieces.push({
        text: flowing(text, from, to, soft),
        passage: passage?.number ?? quote?.number ?? null,
        quote: quote !== undefined,
        first: passage?.start === from,
        look: covering(runs, from)?.kind ?? null,
      });
      from = to;
    }
    found.push({ start, end, pieces, marked: pieces.some((piece) => piece.passage !== null) });
    start = end;
  }
  return found;
}

/** End of the line at which a block is long enough; splits a line that is far too long. */
function blockEnd(text: string, start: number): number {
  if (text.length - start <= BLOCK_UNITS) return text.length;
  const most = start + 4 * BLOCK_UNITS;
  const paragraph = text.indexOf("\n\n", start + BLOCK_UNITS);
  if (paragraph >= 0 && paragraph < most) return paragraph + 2;
  const line = text.indexOf("\n", start + BLOCK_UNITS);
  if (line >= 0 && line < most) return line + 1;
  const space = text.lastIndexOf(" ", most);
  if (space > start + BLOCK_UNITS) return space + 1;
  const end = Math.min(most, text.length);
  // Never split a surrogate pair.
  return end < text.length && /[\udc00-\udfff]/.test(text.charAt(end)) ? end + 1 : end;
}

/** A range of the text, with spaces instead of line breaks at these offsets. */
function flowing(text: string, from: number, to: number, soft: readonly number[]): string {
  let result = "";
  let start = from;
  for (let i = firstAtLeast(soft, from); i < soft.length && (soft[i] as number) < to; i++) {
    result += `${text.slice(start, soft[i])} `;
    start = (soft[i] as number) + 1;
  }
  return result + text.slice(start, to);
}

function apart(marks: readonly Mark[]): Mark[] {
  const kept: Mark[] = [];
  for (const mark of [...marks].sort((a, b) => a.start - b.start || b.end - a.end)) {
    const start = Math.max(mark.start, kept.at(-1)?.end ?? 0);
    if (start < mark.end) kept.push({ ...mark, start });
  }
  return kept;
}

/** The span that contains this unit, by binary search in sorted, disjoint spans. */
function covering<T extends Span>(spans: readonly T[], unit: number): T | undefined {
  let low = 0;
  let high = spans.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((spans[middle] as T).end <= unit) low = middle + 1;
    else high = middle;
  }
  const span = spans[low];
  return span && span.start <= unit ? span : undefined;
}

function firstAtLeast(numbers: readonly number[], least: number): number {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((numbers[middle] as number) < least) low = middle + 1;
    else high = middle;
  }
  return low;
}
