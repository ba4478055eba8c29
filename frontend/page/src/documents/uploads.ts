/** Uploads and tasks of the ingest service, from the first byte to the last event. */

import { create } from "zustand";
import { refresh as refreshCatalog, useCatalog } from "../api/catalog";
import { ApiError, unreachable, type Failure } from "../api/http";
import * as ingest from "../api/ingest";
import type { Limits, ListedDocument, Task } from "../api/wire";
import { bytes, plural } from "../text/format";
import { newId } from "../text/ids";

export interface Refused {
  name: string;
  reason: string;
}

/** A running or finished job on an index. */
export interface Job {
  id: string;
  kind: Task["kind"];
  names: string[];
  /** Sent share of the files, 0 … 1; null if the job sends nothing. */
  sent: number | null;
  task: Task | null;
  failure: Failure | null;
  cancelled: boolean;
  /** The published version is being served. */
  served: boolean;
}

interface Uploads {
  limits: Limits | null;
  documents: ListedDocument[];
  listed: boolean;
  failure: Failure | null;
  jobs: Job[];
  refused: Refused[];
}

export const useUploads = create<Uploads>()(() => ({
  limits: null,
  documents: [],
  listed: false,
  failure: null,
  jobs: [],
  refused: [],
}));

const controllers = new Map<string, AbortController>();

/** The shown index. */
let shown: string | null = null;

/** Loads the limits, documents and tasks of this index. */
export async function open(index: string): Promise<void> {
  shown = index;
  try {
    const [limits, tasks] = await Promise.all([ingest.limits(), ingest.tasks(index), list(index)]);
    useUploads.setState({ limits, failure: null });
    const known = new Set(useUploads.getState().jobs.map(({ task }) => task?.id));
    for (const task of tasks) if (!ingest.ended(task) && !known.has(task.id)) void watch(index, task);
  } catch (error) {
    if (index === shown) useUploads.setState({ failure: failureOf(error) });
  }
}

async function list(index: string): Promise<void> {
  const documents: ListedDocument[] = [];
  let after: string | null = null;
  do {
    const page: { documents: ListedDocument[]; next: string | null } = await ingest.documents(index, after);
    documents.push(...page.documents);
    after = page.next;
  } while (after !== null);
  if (index === shown) useUploads.setState({ documents, listed: true });
}

/** Uploads the accepted files; lists the others with the reason. */
export function add(index: string, files: readonly File[]): void {
  const { limits } = useUploads.getState();
  const { accepted, refused } = limits ? sifted(files, limits) : { accepted: [...files], refused: [] };
  useUploads.setState({ refused });
  if (accepted.length === 0) return;
  const job = begun(
    "upload",
    accepted.map(({ name }) => name),
    0,
  );
  const controller = new AbortController();
  controllers.set(job.id, controller);
  void ingest
    .upload(index, accepted, (sent) => update(job.id, { sent }), controller.signal)
    .then((task) => follow(index, job.id, task))
    .catch((error: unknown) => settle(job.id, error));
}

export function remove(index: string, source: string): void {
  const job = begun("delete", [source], null);
  void ingest
    .remove(index, source)
    .then((task) => follow(index, job.id, task))
    .catch((error: unknown) => settle(job.id, error));
}

export function reindex(index: string, allowRemoval = false): void {
  const job = begun("reindex", [], null);
  void ingest
    .reindex(index, allowRemoval)
    .then((task) => follow(index, job.id, task))
    .catch((error: unknown) => settle(job.id, error));
}

export function cancel(job: Job): void {
  if (job.task) {
    void ingest.cancel(job.task.id).catch((error: unknown) => {
      // It has ended meanwhile; its events say how.
      if (!(error instanceof ApiError && error.failure.code === "task_ended")) settle(job.id, error);
    });
  } else controllers.get(job.id)?.abort();
}

export function dismiss(id: string): void {
  useUploads.setState(({ jobs }) => ({ jobs: jobs.filter((job) => job.id !== id) }));
}

function begun(kind: Task["kind"], names: string[], sent: number | null): Job {
  const job: Job = {
    id: newId(),
    kind,
    names,
    sent,
    task: null,
    failure: null,
    cancelled: false,
    served: false,
  };
  useUploads.setState(({ jobs }) => ({ jobs: [job, ...jobs] }));
  return job;
}

function update(id: string, change: Partial<Job>): void {
  useUploads.setState(({ jobs }) => ({ jobs: jobs.map((job) => (job.id === id ? { ...job, ...change } : job)) }));
}

function settle(id: string, error: unknown): void {
  controllers.delete(id);
  if (error instanceof DOMException && error.name === "AbortError") update(id, { cancelled: true });
  else update(id, { failure: failureOf(error) });
}

async function watch(index: string, task: Task): Promise<void> {
  const job = begun(task.kind, task.sources, null);
  await follow(index, job.id, task).catch((error: unknown) => settle(job.id, error));
}

async function follow(index: string, id: string, first: Task): Promise<void> {
  controllers.delete(id);
  update(id, { task: first, sent: null });
  let last = first;
  if (!ingest.ended(first)) {
    for await (const task of ingest.follow(first.id, new AbortController().signal)) {
      last = task;
      update(id, { task });
    }
  }
  // The task's result stands even if the list cannot be reloaded.
  await list(index).catch((error: unknown) => {
    if (index === shown) useUploads.setState({ failure: failureOf(error) });
  });
  await untilServed(index, last.result?.version ?? null);
  update(id, { served: true });
}

const TAKEN_OVER_WITHIN_MS = 30_000;

/** Returns when this version or a later one is served, or after a timeout. */
async function untilServed(index: string, version: string | null): Promise<void> {
  const deadline = Date.now() + TAKEN_OVER_WITHIN_MS;
  for (;;) {
    await refreshCatalog();
    const served = useCatalog.getState().indexes.find(({ name }) => name === index)?.version ?? "";
    // Version names start with a timestamp.
    if (version === null || served >= version || Date.now() > deadline) return;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

function failureOf(error: unknown): Failure {
  return error instanceof ApiError ? error.failure : unreachable();
}

/** Splits files into accepted ones and rejected ones with the reason. */
export function sifted(files: readonly File[], limits: Limits): { accepted: File[]; refused: Refused[] } {
  const accepted: File[] = [];
  const refused: Refused[] = [];
  let total = 0;
  for (const file of files) {
    const reason = unacceptable(file, limits, accepted.length, total);
    if (reason) refused.push({ name: file.name, reason });
    else {
      accepted.push(file);
      total += file.size;
    }
  }
  return { accepted, refused };
}

function unacceptable(file: File, limits: Limits, before: number, total: number): string | null {
  const type = /\.[^.]+$/.exec(file.name)?.[0].toLowerCase() ?? "";
  if (!limits.types.includes(type)) {
    return `${type ? `Files of the type ${type}` : "Files without an extension"} are not read.`;
  }
  if (file.size === 0) return "It is empty.";
  if (file.size > limits.max_file_bytes) {
    return `It has ${bytes(file.size)}; a file may have ${bytes(limits.max_file_bytes)}.`;
  }
  if (before >= limits.max_files) return `${plural(limits.max_files, "file")} can be sent at once.`;
  if (total + file.size > limits.max_request_bytes) {
    return `Together the files have more than ${bytes(limits.max_request_bytes)}. Send it by itself.`;
  }
  return null;
}
