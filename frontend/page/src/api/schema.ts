// Generated from transformer/wire.py by `python -m docsite.typescript`. Do not edit.

export interface Answer {
  refused: boolean;
  answered_by: "llm" | "quote" | null;
  topics: Topic[];
  citations: Citations | null;
  turns: string | null;
  index_version: string | null;
  cut: CutPassage[];
  query: string | null;
  answerability: number | null;
  replayed: Replayed | null;
  sources: Source[];
  timings: Record<string, number>;
  id: string;
  model_name: string;
  text_output: string;
  finish_reason: "stop" | "length" | "cancelled" | "repetition";
  usage: Usage;
}

export interface Citations {
  text: string;
  kind: "model" | "mended" | "quote";
  statements: Statement[];
  markers: Markers;
  withheld: Withheld[];
  dropped: unknown[];
}

export interface CutPassage {
  chunk_id: string;
  document_id: string;
  reason: "token_budget" | "no_support" | "not_answered";
}

export interface Defaults {
  answers: "quote" | "write" | "auto";
  num_docs: number;
  max_tokens: number;
  temperature: number;
  top_k: number;
  top_p: number;
  repetition_penalty: number | null;
  presence_penalty: number | null;
  frequency_penalty: number | null;
}

export interface EndEvent {
  refused: boolean;
  answered_by: "llm" | "quote" | null;
  topics: Topic[];
  citations: Citations | null;
  turns: string | null;
  sources: Source[];
  timings: Record<string, number>;
  text_output: string;
  finish_reason: "stop" | "length" | "cancelled" | "repetition";
  usage: Usage;
}

export interface Evidence {
  score: number;
  weight: number;
  rank: number | null;
}

export interface Explanation {
  signals: Record<string, Evidence>;
  terms: Record<string, number>;
}

export interface GenerateRequest {
  seed?: number | null;
  repetition_penalty?: number | null;
  presence_penalty?: number | null;
  frequency_penalty?: number | null;
  max_tokens?: number | null;
  temperature?: number | null;
  top_k?: number | null;
  top_p?: number | null;
  stop?: string[];
  answers?: "quote" | "write" | "auto" | null;
  num_docs?: number | null;
  retrieval?: boolean;
  context?: string | null;
  filters?: Record<string, unknown> | null;
  collections?: string[] | null;
  neighbours?: number;
  diversity?: number;
  refuse?: boolean | null;
  min_score?: number | null;
  template?: string | null;
  citations?: "off" | "label" | null;
  turns?: string | null;
  model?: string | null;
  id?: string | null;
  text_input: string;
  history?: Message[];
}

export interface Index {
  name: string;
  version: string;
  documents: number;
  chunks: number;
  embedder: string;
  examples: string[];
  reason: string | null;
}

export interface Indexes {
  default: string;
  indexes: Index[];
  reason: string | null;
}

export interface Markers {
  kept: number;
  mended: number;
  dropped: number;
}

export interface Message {
  role: "user" | "assistant";
  content: string;
}

export interface ModelCard {
  id: string;
  object: "model";
  created: number;
  owned_by: string;
  display_name: string;
  defaults: Defaults;
}

export interface ModelList {
  object: "list";
  data: ModelCard[];
}

export interface PromptTokensDetails {
  cached_tokens: number;
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

export interface Replayed {
  turns: number;
  left_out: number;
  incomplete: number;
}

export interface Source {
  text: string;
  score: number;
  chunk_id: string;
  document_id: string;
  title: string;
  url: string | null;
  source: string;
  heading_path: string[];
  span: Span;
  metadata: Record<string, string | number | boolean>;
  collection: string;
  index_version: string;
  similarity: number;
  lexical_score: number;
  support: number;
  explain: Explanation | null;
  number: number;
}

export interface SourcesEvent {
  index_version: string | null;
  cut: CutPassage[];
  query: string | null;
  answerability: number | null;
  replayed: Replayed | null;
  sources: Source[];
  timings: Record<string, number>;
  id: string;
  model_name: string;
}

export interface Span {
  start: number;
  end: number;
}

export interface Statement {
  span: Span;
  verdict: "supported" | "unsupported" | "no_claim";
  support: number;
  quotes: Quote[];
}

export interface StoredDocument {
  id: string;
  title: string;
  url: string | null;
  text: string;
  source: string;
  metadata: Record<string, string | number | boolean>;
  collection: string;
  index_version: string;
}

export interface TextEvent {
  text_output: string;
}

export interface Topic {
  title: string;
  heading: string;
  url: string | null;
  document_id: string;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: PromptTokensDetails | null;
}

export interface Withheld {
  text: string;
  verdict: "supported" | "unsupported" | "no_claim";
  reason: "unsupported" | "no_claim" | "repetition";
}
