/** The hops of an answer on one line of time, from the timings that the transformer tells. Pure. */

import type { Timings } from "../api/wire";
import { isRunning, type Answer } from "./answer";

export interface Hop {
  name: string;
  label: string;
  told: string;
  /** Milliseconds from when the question was asked. */
  start: number;
  ms: number;
  /** Still going on: it ends now. */
  open: boolean;
}

const HOPS: { name: string; label: string; told: string }[] = [
  { name: "condense", label: "Rephrase", told: "making the question stand alone, from the conversation" },
  { name: "embed", label: "Embed", told: "turning the question into numbers that can be searched for" },
  { name: "search", label: "Search", told: "comparing it with every passage" },
  { name: "retrieval", label: "Fetch", told: "the rest of the way to the passages and back" },
  { name: "prompt", label: "Prompt", told: "fitting the passages into what the model reads" },
  { name: "first_token", label: "First word", told: "the model reads the passages until it writes its first word" },
  { name: "generation", label: "Writing", told: "the rest of the answer" },
  { name: "citations", label: "Check", told: "comparing each sentence with the sources" },
];

/** Hops in the order in which they happen, one after another; while the answer is written the last one is open. */
export function hops(answer: Answer, now: number): Hop[] {
  const durations = apart(answer.timings);
  const found: Hop[] = [];
  let at = 0;
  for (const { name, label, told } of HOPS) {
    const ms = durations[name];
    if (ms === undefined) continue;
    found.push({ name, label, told, start: at, ms, open: false });
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

/** Hops by themselves: `embed` and `search` are told beside `retrieval`, which they are part of. */
function apart(timings: Timings): Timings {
  const { retrieval, total: _, ...others } = timings;
  if (retrieval === undefined) return others;
  return { ...others, retrieval: Math.max(retrieval - (timings["embed"] ?? 0) - (timings["search"] ?? 0), 0) };
}

function named(name: string): Pick<Hop, "name" | "label" | "told"> {
  return HOPS.find((hop) => hop.name === name) ?? { name, label: name, told: "" };
}
