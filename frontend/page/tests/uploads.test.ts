import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ApiError, unreachable } from "../src/api/http";
import type { ListedDocument, Task } from "../src/api/wire";
import { useCatalog } from "../src/api/catalog";
import { cancel, useUploads, open, reindex, type Job } from "../src/documents/uploads";
import { openPanel, openReader, usePanels } from "../src/ui/panels";

/** What the service answers, by a part of the address. */
let answers: Record<string, () => Response | Promise<Response>>;

const json = (body: unknown) => Response.json(body);
const listed = (source: string) => ({ documents: [{ source } as ListedDocument], next: null, version: "v" });
const task = (state: Task["state"]) =>
  ({ id: "t", kind: "reindex", index: "a", state, result: null }) as unknown as Task;
const event = (of: Task, id: number) => `id: ${id}\nevent: task\ndata: ${JSON.stringify(of)}\n\n`;

beforeEach(() => {
  vi.useFakeTimers();
  useUploads.setState({ documents: [], listed: false, failure: null, jobs: [] });
  useCatalog.setState({ indexes: [] });
  answers = {
    "/limits": () => json({}),
    "/tasks?": () => json({ tasks: [] }),
    "/a/documents": () => json(listed("of-a")),
    "/b/documents": () => json(listed("of-b")),
    "/reindex": () => json(task("queued")),
    "/events": () => new Response(event(task("succeeded"), 1)),
  };
  vi.stubGlobal("sessionStorage", { getItem: () => null });
  vi.stubGlobal("document", { baseURI: "http://page/" });
  vi.stubGlobal("fetch", (address: string) => {
    const found = Object.entries(answers).find(([part]) => address.includes(part));
    return Promise.resolve(found ? found[1]() : new Response("", { status: 404 }));
  });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const settled = (ms = 60_000) => vi.advanceTimersByTimeAsync(ms);
const sources = () => useUploads.getState().documents.map(({ source }) => source);

describe("the list of documents", () => {
  it("stays that of the index that is shown when a task of another one ends", async () => {
    void open("a");
    await settled();
    let end: () => void = () => undefined;
    answers["/events"] = () =>
      new Promise((resolve) => (end = () => resolve(new Response(event(task("succeeded"), 1)))));
    reindex("a");
    await settled();
    void open("b");
    await settled();
    expect(sources()).toEqual(["of-b"]);
    end();
    await settled();
    expect(useUploads.getState().jobs[0]?.task?.state).toBe("succeeded");
    expect(sources()).toEqual(["of-b"]);
  });

  it("is not that of an index that was shown before and answers late", async () => {
    answers["/a/documents"] = () => new Promise((resolve) => setTimeout(() => resolve(json(listed("of-a"))), 500));
    void open("a");
    void open("b");
    await settled();
    expect(sources()).toEqual(["of-b"]);
  });
});

describe("a task", () => {
  it("is followed again once the service is back behind its proxy", async () => {
    const responses = [
      () => new Response(event(task("running"), 1)),
      () => Response.json({ error: "Gone for a moment.", code: "bad_upstream" }, { status: 502 }),
      () => Response.json({ error: "Starting.", code: "not_ready" }, { status: 503 }),
      () => new Response(event(task("succeeded"), 2)),
    ];
    answers["/events"] = () => (responses.shift() as () => Response)();
    reindex("a");
    await settled();
    expect(useUploads.getState().jobs[0]).toMatchObject({ failure: null, served: true, task: { state: "succeeded" } });
  });

  it("that has succeeded has not failed because the list cannot be read then", async () => {
    void open("a");
    await settled();
    answers["/a/documents"] = () => Promise.reject(new ApiError(unreachable()));
    reindex("a");
    await settled();
    expect(useUploads.getState().jobs[0]).toMatchObject({ failure: null, served: true });
    expect(useUploads.getState().failure?.status).toBe(0);
  });
});

describe("a task that is cancelled", () => {
  it("has not failed when it has ended in the meantime", async () => {
    answers["/events"] = () =>
      new Promise((resolve) => setTimeout(() => resolve(new Response(event(task("succeeded"), 1))), 500));
    reindex("a");
    await settled(100);
    answers = { "/tasks/t": () => Response.json({ error: "", code: "task_ended" }, { status: 409 }), ...answers };
    delete answers["/events"];
    cancel(useUploads.getState().jobs[0] as Job);
    await settled();
    expect(useUploads.getState().jobs[0]).toMatchObject({ failure: null, task: { state: "succeeded" } });
  });
});

describe("a panel", () => {
  it("is not opened below a document that is read", () => {
    openReader({ sources: [], citations: null, number: 1 });
    openPanel("settings");
    expect(usePanels.getState()).toMatchObject({ panel: "settings", reading: null, browsing: null });
  });
});
