/** What a person pastes, before it becomes a question. */

import { MAX_QUESTION_CHARS } from "../api/wire";
import { codePoints } from "./codepoints";
import { count } from "./format";

// Control characters but tab and newline, surrogates without their other half, and the mark of undecodable bytes.
// eslint-disable-next-line no-control-regex
const UNWANTED = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ufeff\ufffe\uffff]|\p{Surrogate}/gu;
const UNDECODED = /\ufffd/g;

/** Text with one kind of line break and without control characters, and how many of them it had. */
export function clean(text: string): { text: string; removed: number } {
  const lines = text.replace(/\r\n?/g, "\n");
  const kept = lines.replace(UNWANTED, "");
  return { text: kept, removed: lines.length - kept.length };
}

/** Whether a text is rather the bytes of a file: more than one character in ten means nothing, or one is NUL. */
export function isBinary(text: string): boolean {
  if (text.includes("\0")) return true;
  const noise = (text.match(UNWANTED)?.length ?? 0) + (text.match(UNDECODED)?.length ?? 0);
  return noise > 2 && noise / text.length > 0.1;
}

/** Why a text cannot be asked; null where it can. An empty one is no reason to say anything. */
export function refusal(text: string): string | null {
  const length = codePoints(text);
  if (length <= MAX_QUESTION_CHARS) return null;
  return `The question has ${count(length)} characters; ${count(MAX_QUESTION_CHARS)} is the most that can be asked.`;
}
