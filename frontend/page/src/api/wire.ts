/**
 * What the page's server is asked and what it answers: docs/api.md, in TypeScript.
 *
 * Spans count Unicode code points, not UTF-16 units: see text/codepoints.ts.
 */

// ── the transformer ─────────────────────────────────────────────────────────────────────────────────────────────────

export interface Span {
  start: number;
  end: number;
}

export interface Source {
  number: number;
  text: string;
  document_id: string;
  chunk_id: string;
  title: string;
  url: string | null;
  source: string;
  heading_path: string[];
  span: Span;
  metadata: Record<string, string | number | boolean>;
  index_version: string;
  collection: string;
  score: number;
  similarity: number;
  lexical_score: number;
  support: number;
}

export interface Topic {
  title: string;
  heading: string;
  url: string | null;
  document_id: string;
}

export interface Quote {
  number: number;
  document_id: string;
  chunk_id: string;
  index_version: string;
  span: Span;
  text: string;
  sha256: string;
  support: number;
}

export interface Statement {
  /** Of `Citations.text`. */
  span: Span;
  verdict: "supported" | "unsupported" | "no_claim";
  support: number;
  quotes: Quote[];
}

export interface Citations {
  text: string;
  kind: "model" | "mended" | "quote";
  statements: Statement[];
  markers: { kept: number; mended: number; dropped: number };
  dropped: { number: number; document_id: string; reason: "unreadable" | "differs" }[];
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

export interface CutPassage {
  chunk_id: string;
  document_id: string;
  reason: "token_budget" | "no_support" | "not_answered";
}

/** Milliseconds by hop: `condense`, `embed`, `search`, `retrieval`, `prompt`, `first_token`, `generation`, … */
export type Timings = Record<string, number>;

/** The first event of a stream. */
export interface SourcesEvent {
  id: string;
  model_name: string;
  sources: Source[];
  index_version: string | null;
  cut: CutPassage[];
  query: string | null;
  timings: Timings;
  answerability: number | null;
}

/** A piece of the answer. */
export interface TextEvent {
  text_output: string;
}

/** The last event of a stream. */
export interface EndEvent {
  text_output: string;
  finish_reason: "stop" | "length" | "cancelled";
  refused: boolean;
  sources: Source[];
  usage: Usage;
  timings: Timings;
  topics: Topic[];
  citations: Citations | null;
}

/** An error in the middle of a stream, and the body of every answer that is not 2xx. */
export interface ErrorBody {
  error: string;
  code?: string;
  field?: string | null;
}

export type StreamEvent = SourcesEvent | TextEvent | EndEvent | ErrorBody;

export interface Message {
  role: "user" | "assistant";
  content: string;
}

/** The body of `generate_stream`; absent fields have the service's defaults. */
export interface GenerateRequest {
  text_input: string;
  history: Message[];
  max_tokens?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  num_docs?: number;
  retrieval?: boolean;
  collections?: string[];
}

export interface Models {
  data: { id: string }[];
}

export interface IndexInfo {
  name: string;
  version: string;
  documents: number;
  chunks: number;
  embedder: string;
  examples: string[];
  reason?: string | null;
}

export interface Indexes {
  default: string;
  indexes: IndexInfo[];
  reason: string | null;
}

export interface StoredDocument {
  id: string;
  title: string;
  url: string | null;
  text: string;
  source: string;
  metadata: Record<string, string | number | boolean>;
  collection?: string;
  index_version?: string;
}

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
