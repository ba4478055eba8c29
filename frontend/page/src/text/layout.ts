/**
 * Layout of the lines of a stored Markdown or text document. Characters and offsets stay unchanged, so that spans remain
 * valid; only the appearance changes.
 */

import type { Span } from "../api/wire";

export interface Run extends Span {
  kind: "heading" | "code";
}

export interface Layout {
  /** Ranges with a style of their own, sorted and disjoint. */
  runs: Run[];
  /** Offsets of line breaks that only wrap a paragraph and are shown as spaces; ascending. */
  soft: number[];
}

/** Whether the stored text of a source is Markdown: ingestion writes headings, code and tables of these formats so. */
export function isMarkdown(source: string): boolean {
  return (
    /\.(md|markdown|x?html?|pdf|docx|pptx|xlsx)$/i.test(source) ||
    (/^https?:/i.test(source) && !/\.\w{1,8}$/.test(source))
  );
}

/** A line shorter than this ends on purpose. */
const WRAPPED_FROM = 60;

const EMPTY: Layout = { runs: [], soft: [] };

export function layout(text: string, source: string): Layout {
  if (!/\.(md|markdown|txt|text|rst)$/i.test(source)) return EMPTY;
  const runs: Run[] = [];
  const soft: number[] = [];
  let fence = "";
  let before = "";
  for (let start = 0; start < text.length;) {
    const newline = text.indexOf("\n", start);
    const end = newline < 0 ? text.length : newline + 1;
    const line = text.slice(start, newline < 0 ? end : newline);
    const mark = /^ {0,3}(`{3,}|~{3,})/.exec(line)?.[1] ?? "";
    const code = fence !== "" || mark !== "" || /^\s*\|/.test(line);
    if (fence === "") fence = mark;
    else if (mark.startsWith(fence)) fence = "";
    const heading = !code && /^#{1,6} /.test(line);
    if (code) extend(runs, { start, end, kind: "code" });
    else if (heading) runs.push({ start, end, kind: "heading" });
    if (start > 0 && !code && !heading && before.length >= WRAPPED_FROM && /^[\p{L}"'“‘`*[(]/u.test(line)) {
      if (!/^\*\s/.test(line)) soft.push(start - 1);
    }
    before = code || heading ? "" : line;
    start = end;
  }
  return { runs, soft };
}

function extend(runs: Run[], run: Run): void {
  const last = runs.at(-1);
  if (last?.kind === run.kind && last.end === run.start) last.end = run.end;
  else runs.push(run);
}
