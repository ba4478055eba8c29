/** The transformer's public routes, through the page's server. */

import { call, getJson, headers } from "./http";
import { events } from "./sse";
import type { GenerateRequest, Indexes, Models, StoredDocument, StreamEvent } from "./wire";

const ROOT = "transformer";

export const indexes = (signal?: AbortSignal) => getJson<Indexes>(`${ROOT}/v1/indexes`, signal);

export const models = (signal?: AbortSignal) => getJson<Models>(`${ROOT}/openai/v1/models`, signal);

/** A whole stored document; by default of the served version. */
export function document(
  id: string,
  at: { collection?: string | undefined; version?: string | undefined },
  signal?: AbortSignal,
): Promise<StoredDocument> {
  const query = new URLSearchParams();
  if (at.collection) query.set("collection", at.collection);
  if (at.version) query.set("version", at.version);
  const path = id.split("/").map(encodeURIComponent).join("/");
  return getJson<StoredDocument>(`${ROOT}/v1/documents/${path}?${query}`, signal);
}

/** Streams an answer. Calls `onOpen` with the request id once the request is accepted. */
export async function* ask(
  service: string,
  request: GenerateRequest,
  signal: AbortSignal,
  onOpen: (requestId: string | null) => void,
): AsyncGenerator<StreamEvent> {
  const response = await call(`${ROOT}/v2/models/${encodeURIComponent(service)}/generate_stream`, {
    method: "POST",
    headers: headers({ "content-type": "application/json", accept: "text/event-stream" }),
    body: JSON.stringify(request),
    signal,
  });
  onOpen(response.headers.get("x-request-id"));
  for await (const event of events(response)) yield JSON.parse(event.data) as StreamEvent;
}
