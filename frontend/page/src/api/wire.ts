/**
 * Requests and responses of the page's server: docs/api.md, in TypeScript.
 *
 * The transformer's types are generated (schema.ts). Spans count Unicode code points, not UTF-16 units: see
 * text/codepoints.ts.
 */

import type { EndEvent, SourcesEvent, TextEvent } from "./schema";

export type {
  Citations,
  CutPassage,
  Defaults,
  EndEvent,
  GenerateRequest,
  Index as IndexInfo,
  Indexes,
  Message,
  ModelCard,
  ModelList as Models,
  Quote,
  Source,
  SourcesEvent,
  Span,
  Statement,
  StoredDocument,
  TextEvent,
  Topic,
  Usage,
  Withheld,
} from "./schema";

/** Milliseconds by step: `condense`, `embed`, `search`, `retrieval`, `prompt`, `first_token`, `generation`, … */
export type Timings = SourcesEvent["timings"];

/** An error in the middle of a stream, and the body of every response that is not 2xx. */
export interface ErrorBody {
  error: string;
  code?: string;
  field?: string | null;
}

export type StreamEvent = SourcesEvent | TextEvent | EndEvent | ErrorBody;

// ── ingest ──────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface Limits {
  max_file_bytes: number;
  max_files: number;
  max_request_bytes: number;
  /** File name extensions, with their dots. */
  types: string[];
}

export interface ListedDocument {
  source: string;
  title: string;
  documents: number;
  chunks: number;
  size_bytes: number | null;
  sha256: string | null;
  origin: "upload" | "folder";
  uploaded_at: string | null;
  /** Why the file can no longer be read, so that the documents read before stay; null if it can. */
  stale: string | null;
}

export interface DocumentList {
  documents: ListedDocument[];
  next: string | null;
  version: string | null;
}

export interface Task {
  id: string;
  kind: "upload" | "delete" | "reindex";
  index: string;
  state: "queued" | "running" | "succeeded" | "failed" | "cancelled";
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
  progress: {
    stage: "queued" | "waiting" | "reading" | "indexing" | "publishing" | "checking" | "done";
    files_done: number;
    files_total: number;
    chunks_done: number;
    bytes_done: number;
    bytes_total: number;
    chunks_per_s: number;
    eta_s: number | null;
    /** Why it waits, while it does. */
    reason: string | null;
  };
  sources: string[];
  result: {
    version: string | null;
    documents: number;
    chunks: number;
    skipped: { source: string; reason: string }[];
    /** What was lost or guessed in files that were used. */
    notices: { source: string; text: string }[];
    /** After a deletion; `kept_in`: earlier versions that are kept and still hold the documents. */
    absence: { kept_in: string[] } | null;
  } | null;
  error: { code: string; message: string } | null;
}

// ── the page's own server ───────────────────────────────────────────────────────────────────────────────────────────

export interface PageConfig {
  version: string;
  ingest: boolean;
  title: string;
}

export const MAX_QUESTION_CHARS = 100_000;
export const MAX_MESSAGES = 256;
