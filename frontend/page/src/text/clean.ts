/** Cleans pasted text before it becomes a question. */

import { MAX_QUESTION_CHARS } from "../api/wire";
import { codePoints } from "./codepoints";
import { count } from "./format";

// Control characters except tab and newline, lone surrogates, and the replacement character.
// eslint-disable-next-line no-control-regex
const UNWANTED = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ufeff\ufffe\uffff]|\p{Surrogate}/gu;
const UNDECODED = /\ufffd/g;

/** The text with \n line breaks and without control characters, and the number of removed characters. */
export function clean(text: string): { text: string; removed: number } {
  const lines = text.replace(/\r\n?/g, "\n");
  const kept = lines.replace(UNWANTED, "");
  return { text: kept, removed: lines.length - kept.length };
}

/** Whether a text looks like binary data: more than a tenth of unprintable characters, or a NUL. */
export function isBinary(text: string): boolean {
  if (text.includes("\0")) return true;
  const noise = (text.match(UNWANTED)?.length ?? 0) + (text.match(UNDECODED)?.length ?? 0);
  return noise > 2 && noise / text.length > 0.1;
}

/** The reason a text cannot be asked, or null. An empty text gives null. */
export function refusal(text: string): string | null {
  const length = codePoints(text);
  if (length <= MAX_QUESTION_CHARS) return null;
  return `The question has ${count(length)} characters; ${count(MAX_QUESTION_CHARS)} is the limit.`;
}
