/** The ingest service's public routes, through the page's server. */

import { ApiError, address, call, failureOf, getJson, headers, unreachable } from "./http";
import { events } from "./sse";
import type { DocumentList, Limits, Task } from "./wire";

const ROOT = "ingest/v1";

const of = (index: string) => `${ROOT}/indexes/${encodeURIComponent(index)}`;

export const limits = (signal?: AbortSignal) => getJson<Limits>(`${ROOT}/limits`, signal);

export const documents = (index: string, after: string | null, signal?: AbortSignal) =>
  getJson<DocumentList>(
    `${of(index)}/documents?limit=200${after === null ? "" : `&after=${encodeURIComponent(after)}`}`,
    signal,
  );

export async function tasks(index: string, signal?: AbortSignal): Promise<Task[]> {
  return (await getJson<{ tasks: Task[] }>(`${ROOT}/tasks?index=${encodeURIComponent(index)}`, signal)).tasks;
}

export async function remove(index: string, source: string): Promise<Task> {
  const path = source.split("/").map(encodeURIComponent).join("/");
  const response = await call(`${of(index)}/documents/${path}`, { method: "DELETE", headers: headers() });
  return (await response.json()) as Task;
}

/** Reads everything again. Without `allowRemoval` it fails if more than half of the documents would go. */
export async function reindex(index: string, allowRemoval: boolean): Promise<Task> {
  const response = await call(`${of(index)}/reindex?allow_removal=${String(allowRemoval)}`, {
    method: "POST",
    headers: headers(),
  });
  return (await response.json()) as Task;
}

export async function cancel(id: string): Promise<void> {
  await call(`${ROOT}/tasks/${encodeURIComponent(id)}`, { method: "DELETE", headers: headers() });
}

/** Uploads files with XMLHttpRequest, because fetch reports no upload progress. `onProgress` gets the sent share, 0 … 1. */
export function upload(
  index: string,
  files: readonly File[],
  onProgress: (share: number) => void,
  signal: AbortSignal,
): Promise<Task> {
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(`${of(index)}/documents`));
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) {
        try {
          resolve(JSON.parse(request.responseText) as Task);
          return;
        } catch {
          // Handled below: a success without a task is an error.
        }
      }
      const from = { get: (name: string) => request.getResponseHeader(name) };
      reject(new ApiError(failureOf(request.status, from, request.responseText)));
    };
    request.onerror = () => reject(new ApiError(unreachable()));
    request.onabort = () => reject(new DOMException("The upload was cancelled.", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

/** The service is unreachable for the moment: it restarts, or its proxy does not reach it. */
const PASSING = [0, 429, 502, 503, 504];

/** Follows a task until it ends. Resumes after a broken connection. */
export async function* follow(id: string, signal: AbortSignal): AsyncGenerator<Task> {
  let last: string | undefined;
  for (let attempt = 0; attempt < 5; attempt++) {
    try {
      const response = await call(`${ROOT}/tasks/${encodeURIComponent(id)}/events`, {
        headers: headers({ accept: "text/event-stream", ...(last ? { "last-event-id": last } : {}) }),
        signal,
      });
      for await (const event of events(response)) {
        if (event.event !== undefined && event.event !== "task") continue;
        last = event.id ?? last;
        attempt = 0;
        const task = JSON.parse(event.data) as Task;
        yield task;
        if (ended(task)) return;
      }
    } catch (error) {
      if (error instanceof DOMException) throw error;
      if (error instanceof ApiError && !PASSING.includes(error.failure.status)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** attempt));
  }
  throw new ApiError(unreachable());
}

export const ended = (task: Task) =>
  task.state === "succeeded" || task.state === "failed" || task.state === "cancelled";
