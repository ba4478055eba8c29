/** Converts code points (the services' unit) to UTF-16 units (JavaScript's unit). */

import type { Span } from "../api/wire";

const SURROGATE = /[\ud800-\udbff][\udc00-\udfff]/;

/** Number of code points of a text. */
export function codePoints(text: string): number {
  if (!SURROGATE.test(text)) return text.length;
  let count = 0;
  for (let unit = 0; unit < text.length; count++) unit += width(text, unit);
  return count;
}

/**
 * Spans in code points → spans in UTF-16 units of `text`, in the same order.
 *
 * One pass over the text for any number of spans. Spans beyond the end are clipped.
 */
export function toUnits(text: string, spans: readonly Span[]): Span[] {
  const clamp = (units: number) => Math.min(Math.max(units, 0), text.length);
  if (!SURROGATE.test(text)) return spans.map(({ start, end }) => ({ start: clamp(start), end: clamp(end) }));
  const wanted = [...new Set(spans.flatMap(({ start, end }) => [start, end]))].sort((a, b) => a - b);
  const units = new Map<number, number>();
  let unit = 0;
  let point = 0;
  for (const target of wanted) {
    for (; point < target && unit < text.length; point++) unit += width(text, unit);
    units.set(target, unit);
  }
  return spans.map(({ start, end }) => ({ start: units.get(start) ?? 0, end: units.get(end) ?? text.length }));
}

function width(text: string, unit: number): number {
  return (text.codePointAt(unit) ?? 0) > 0xffff ? 2 : 1;
}
