/** The timeline of an answer's steps, from the transformer's timings. Pure. */

import type { Timings } from "../api/wire";
import { isRunning, type Answer } from "./answer";

export interface Hop {
  name: string;
  label: string;
  hint: string;
  /** Milliseconds since the question. */
  start: number;
  ms: number;
  /** Still running: ends now. */
  open: boolean;
}

const HOPS: { name: string; label: string; hint: string }[] = [
  { name: "condense", label: "Rephrase", hint: "making the question stand alone, from the conversation" },
  { name: "embed", label: "Embed", hint: "turning the question into numbers that can be searched for" },
  { name: "search", label: "Search", hint: "comparing it with every passage" },
  { name: "retrieval", label: "Fetch", hint: "the rest of the way to the passages and back" },
  { name: "prompt", label: "Prompt", hint: "fitting the passages into what the model reads" },
  { name: "first_token", label: "First word", hint: "time until the model writes its first word" },
  { name: "generation", label: "Writing", hint: "the rest of the answer" },
  { name: "citations", label: "Check", hint: "comparing each sentence with the sources" },
];

/** Steps in order; while the answer streams the last one is open. */
export function hops(answer: Answer, now: number): Hop[] {
  const durations = apart(answer.timings);
  const found: Hop[] = [];
  let at = 0;
  for (const { name, label, hint } of HOPS) {
    const ms = durations[name];
    if (ms === undefined) continue;
    found.push({ name, label, hint, start: at, ms, open: false });
    at += ms;
  }
  if (isRunning(answer)) {
    const elapsed = Math.max(now - answer.askedAt, at);
    const first = answer.firstTextAt === null ? null : Math.max(answer.firstTextAt - answer.askedAt, at);
    if (answer.status === "asked") {
      found.push({ ...named("search"), start: 0, ms: elapsed, open: true });
    } else {
      found.push({ ...named("first_token"), start: at, ms: (first ?? elapsed) - at, open: first === null });
      if (first !== null) found.push({ ...named("generation"), start: first, ms: elapsed - first, open: true });
    }
  }
  return found;
}

/** Exclusive times: the timings report `embed` and `search` as part of `retrieval`. */
function apart(timings: Timings): Timings {
  const { retrieval, total: _, ...others } = timings;
  if (retrieval === undefined) return others;
  return { ...others, retrieval: Math.max(retrieval - (timings["embed"] ?? 0) - (timings["search"] ?? 0), 0) };
}

function named(name: string): Pick<Hop, "name" | "label" | "hint"> {
  return HOPS.find((hop) => hop.name === name) ?? { name, label: name, hint: "" };
}
