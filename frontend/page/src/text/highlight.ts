/** A long text in blocks, and which stretches of each are marked. */

import type { Span } from "../api/wire";

export interface Mark extends Span {
  kind: "passage" | "quote";
  /** Number of the source. */
  number: number;
}

export interface Piece {
  text: string;
  /** Number of the source whose passage this is of; null outside of all. */
  passage: number | null;
  quote: boolean;
  /** The passage begins here: where a reader is taken to. */
  first: boolean;
}

export interface Block extends Span {
  pieces: Piece[];
  marked: boolean;
}

const BLOCK_UNITS = 1500;

/**
 * `text` in blocks of whole lines, about 1,500 units each, which a browser can leave out while they are out of sight.
 *
 * @param marks in UTF-16 units; quotes may lie in passages, and passages may overlap: the earlier has the stretch.
 */
export function blocks(text: string, marks: readonly Mark[]): Block[] {
  const passages = withoutOverlap(marks.filter((mark) => mark.kind === "passage"));
  const quotes = withoutOverlap(marks.filter((mark) => mark.kind === "quote"));
  const edges = [...new Set([...passages, ...quotes].flatMap(({ start, end }) => [start, end]))].sort((a, b) => a - b);
  const found: Block[] = [];
  let edge = 0;
  for (let start = 0; start < text.length; ) {
    const end = blockEnd(text, start);
    const pieces: Piece[] = [];
    let from = start;
    while ((edges[edge] ?? Infinity) <= from) edge++;
    while (from < end) {
      const to = Math.min(edges[edge] ?? Infinity, end);
      const passage = covering(passages, from);
      const quote = covering(quotes, from);
      pieces.push({
        text: text.slice(from, to),
        passage: passage?.number ?? quote?.number ?? null,
        quote: quote !== undefined,
        first: passage?.start === from,
      });
      if (to === edges[edge]) edge++;
      from = to;
    }
    found.push({ start, end, pieces, marked: pieces.some((piece) => piece.passage !== null) });
    start = end;
  }
  return found;
}

/** End of the line in which a block becomes long enough; in the middle of a line that is far longer. */
function blockEnd(text: string, start: number): number {
  if (text.length - start <= BLOCK_UNITS) return text.length;
  const line = text.indexOf("\n", start + BLOCK_UNITS);
  if (line >= 0 && line < start + 4 * BLOCK_UNITS) return line + 1;
  const space = text.lastIndexOf(" ", start + 4 * BLOCK_UNITS);
  if (space > start + BLOCK_UNITS) return space + 1;
  const end = Math.min(start + 4 * BLOCK_UNITS, text.length);
  // Not between the halves of a character.
  return end < text.length && /[\udc00-\udfff]/.test(text.charAt(end)) ? end + 1 : end;
}

function withoutOverlap(marks: readonly Mark[]): Mark[] {
  const kept: Mark[] = [];
  for (const mark of [...marks].sort((a, b) => a.start - b.start || b.end - a.end)) {
    const start = Math.max(mark.start, kept.at(-1)?.end ?? 0);
    if (start < mark.end) kept.push({ ...mark, start });
  }
  return kept;
}

/** Of sorted marks without overlap, the one that has this unit. */
function covering(marks: readonly Mark[], unit: number): Mark | undefined {
  let low = 0;
  let high = marks.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((marks[middle] as Mark).end <= unit) low = middle + 1;
    else high = middle;
  }
  const mark = marks[low];
  return mark && mark.start <= unit ? mark : undefined;
}
