/** Reduces the events of a stream to the state of an answer. Pure. */

import type { Failure } from "../api/http";
import type {
  Citations,
  CutPassage,
  EndEvent,
  ErrorBody,
  Source,
  SourcesEvent,
  StreamEvent,
  Timings,
  Topic,
  Usage,
} from "../api/wire";

/**
 * `asked`: nothing received yet. `writing`: sources received, text is streaming. The others are final: `stopped` by the
 * user, `interrupted` by a reload or a lost connection, `failed` with an error.
 */
export type AnswerStatus = "asked" | "writing" | "done" | "stopped" | "interrupted" | "failed";

export interface Answer {
  status: AnswerStatus;
  /** Answered from documents, or by the model only. */
  grounded: boolean;
  text: string;
  sources: Source[];
  cut: CutPassage[];
  citations: Citations | null;
  /** Continues the conversation after this answer. */
  turns: string | null;
  refused: boolean;
  topics: Topic[];
  answerability: number | null;
  /** The search query, if it differs from the question. */
  query: string | null;
  finishReason: EndEvent["finish_reason"] | null;
  usage: Usage | null;
  timings: Timings;
  indexVersion: string | null;
  requestId: string | null;
  failure: Failure | null;
  /** Milliseconds since the epoch. */
  askedAt: number;
  firstTextAt: number | null;
  endedAt: number | null;
}

export function asked(grounded: boolean, now: number): Answer {
  return {
    status: "asked",
    grounded,
    text: "",
    sources: [],
    cut: [],
    citations: null,
    turns: null,
    refused: false,
    topics: [],
    answerability: null,
    query: null,
    finishReason: null,
    usage: null,
    timings: {},
    indexVersion: null,
    requestId: null,
    failure: null,
    askedAt: now,
    firstTextAt: null,
    endedAt: null,
  };
}

export const isRunning = (answer: Answer) => answer.status === "asked" || answer.status === "writing";

/** The answer after one more event. */
export function received(answer: Answer, event: StreamEvent, now: number): Answer {
  if (!isRunning(answer)) return answer;
  if ("error" in event) return failed(answer, inStream(event, answer.requestId), now);
  if ("finish_reason" in event) {
    const text = answer.text + event.text_output;
    return {
      ...answer,
      status: "done",
      text: event.citations?.text ?? text,
      sources: event.sources,
      citations: event.citations,
      turns: event.turns,
      refused: event.refused,
      topics: event.topics,
      finishReason: event.finish_reason,
      usage: event.usage,
      timings: event.timings,
      firstTextAt: answer.firstTextAt ?? (event.text_output ? now : null),
      endedAt: now,
    };
  }
  if ("sources" in event) return begun(answer, event);
  if (typeof event.text_output !== "string") return answer;
  return {
    ...answer,
    status: "writing",
    text: answer.text + event.text_output,
    firstTextAt: answer.firstTextAt ?? now,
  };
}

function begun(answer: Answer, event: SourcesEvent): Answer {
  return {
    ...answer,
    status: "writing",
    sources: event.sources,
    cut: event.cut,
    query: event.query,
    answerability: event.answerability,
    indexVersion: event.index_version,
    timings: event.timings,
  };
}

/** The stream ended. Without a final event it was cut off; the text so far stays. */
export function ended(answer: Answer, now: number): Answer {
  return isRunning(answer) ? { ...answer, status: "interrupted", endedAt: now } : answer;
}

export function stopped(answer: Answer, now: number): Answer {
  return isRunning(answer) ? { ...answer, status: "stopped", endedAt: now } : answer;
}

/** The request failed. A connection lost midway is an interruption: the text so far stays. */
export function failed(answer: Answer, failure: Failure, now: number): Answer {
  if (!isRunning(answer)) return answer;
  const lost = failure.status === 0 && (answer.status === "writing" || answer.text !== "");
  return { ...answer, status: lost ? "interrupted" : "failed", failure: lost ? null : failure, endedAt: now };
}

function inStream(event: ErrorBody, requestId: string | null): Failure {
  const message = typeof event.error === "string" ? event.error : "";
  const status = STATUS[event.code ?? ""] ?? 500;
  return { status, code: event.code ?? "", message, field: event.field ?? null, requestId, retryAt: null };
}

/** HTTP status by error code: an error inside a stream has no status line. */
const STATUS: Record<string, number> = {
  invalid_request: 400,
  unauthorized: 401,
  forbidden: 403,
  not_found: 404,
  payload_too_large: 413,
  busy: 429,
  bad_upstream: 502,
  not_ready: 503,
  deadline_exceeded: 504,
};
