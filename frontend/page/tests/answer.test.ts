import { describe, expect, it } from "vitest";
import { unreachable } from "../src/api/http";
import type { EndEvent, Source, SourcesEvent } from "../src/api/wire";
import { asked, ended, failed, received, stopped, type Answer } from "../src/chat/answer";

const source: Source = {
  number: 1,
  text: "Ducks swim.",
  document_id: "d",
  chunk_id: "c",
  title: "Ducks",
  url: null,
  source: "ducks.md",
  heading_path: [],
  span: { start: 0, end: 11 },
  metadata: {},
  explain: null,
  index_version: "v",
  collection: "default",
  score: 0.5,
  similarity: 0.5,
  lexical_score: 1,
  support: 1,
};

const first: SourcesEvent = {
  id: "1",
  model_name: "rag",
  sources: [source],
  index_version: "v",
  cut: [],
  query: "What swims?",
  timings: { retrieval: 3 },
  answerability: 0.9,
  replayed: null,
};

const last: EndEvent = {
  text_output: "",
  finish_reason: "stop",
  refused: false,
  answered_by: "llm",
  sources: [source],
  usage: { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11, prompt_tokens_details: null },
  timings: { retrieval: 3, first_token: 20, generation: 5, total: 28 },
  topics: [],
  citations: null,
  turns: null,
};

const after = (...events: Parameters<typeof received>[1][]): Answer =>
  events.reduce((answer, event, index) => received(answer, event, 100 + index), asked(true, 0));

describe("an answer", () => {
  it("has its sources before its text, and pieces in order", () => {
    const answer = after(first, { text_output: "Ducks" }, { text_output: " swim." });
    expect(answer).toMatchObject({ status: "writing", text: "Ducks swim.", sources: [source], firstTextAt: 101 });
  });

  it("ends with its last event, whose facts are final", () => {
    const answer = after(first, { text_output: "Ducks swim." }, last);
    expect(answer).toMatchObject({ status: "done", finishReason: "stop", timings: last.timings, endedAt: 102 });
  });

  it("is replaced by the checked text", () => {
    const citations = {
      text: "Ducks swim [1].",
      kind: "mended" as const,
      statements: [],
      markers: { kept: 0, mended: 1, dropped: 0 },
      withheld: [],
      dropped: [],
    };
    expect(after(first, { text_output: "Ducks swim [7]." }, { ...last, citations }).text).toBe("Ducks swim [1].");
  });

  it("loses its sources when it becomes a refusal", () => {
    const answer = after(first, { text_output: "I don't know." }, { ...last, refused: true, sources: [] });
    expect(answer).toMatchObject({ refused: true, sources: [] });
  });

  it("keeps what came when an error is the last event", () => {
    const answer = after(first, { text_output: "Ducks" }, { error: "The predictor ended.", code: "bad_upstream" });
    expect(answer).toMatchObject({ status: "failed", text: "Ducks", failure: { status: 502, code: "bad_upstream" } });
  });

  it("is interrupted, not failed, when the connection is lost in the middle", () => {
    const half = after(first, { text_output: "Ducks" });
    expect(failed(half, unreachable(), 5)).toMatchObject({ status: "interrupted", failure: null, text: "Ducks" });
    expect(failed(asked(true, 0), unreachable(), 5)).toMatchObject({ status: "failed", failure: { status: 0 } });
    expect(ended(half, 5).status).toBe("interrupted");
  });

  it("does not change once it is final", () => {
    const done = after(first, last);
    expect(received(done, { text_output: "more" }, 9)).toBe(done);
    expect(stopped(done, 9)).toBe(done);
    expect(ended(done, 9)).toBe(done);
    expect(failed(done, unreachable(), 9)).toBe(done);
  });

  it("takes no harm from events it does not know", () => {
    expect(after(first, {} as never).text).toBe("");
  });
});
