import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { StreamEvent } from "../src/api/wire";

type Ask = (request: unknown, signal: AbortSignal) => AsyncGenerator<StreamEvent>;

/** What the browser keeps, of all tabs; and what the transformer answers. */
const kept = vi.hoisted(() => ({
  stored: new Map<string, unknown>(),
  slow: new Map<string, number>(),
  ask: null as never,
  channels: new Set<{ onmessage: ((message: { data: string }) => void) | null }>(),
}));

/** Delivers to the channels of other tabs at once. */
class Channel {
  onmessage: ((message: { data: string }) => void) | null = null;
  constructor() {
    kept.channels.add(this);
  }
  postMessage(data: string) {
    for (const other of kept.channels) if (other !== this) other.onmessage?.({ data });
  }
}

vi.mock("idb-keyval", () => ({
  createStore: () => null,
  get: async (key: string) => {
    const ms = kept.slow.get(key);
    if (ms) await new Promise((resolve) => setTimeout(resolve, ms));
    return structuredClone(kept.stored.get(key));
  },
  getMany: (keys: string[]) => Promise.resolve(keys.map((key) => structuredClone(kept.stored.get(key)))),
  set: (key: string, value: unknown) => Promise.resolve(void kept.stored.set(key, structuredClone(value))),
  update: (key: string, how: (before: unknown) => unknown) =>
    Promise.resolve(void kept.stored.set(key, structuredClone(how(structuredClone(kept.stored.get(key)))))),
  del: (key: string) => Promise.resolve(void kept.stored.delete(key)),
}));
vi.mock("../src/api/transformer", () => ({
  ask: (_: string, request: unknown, signal: AbortSignal) => (kept.ask as Ask)(request, signal),
}));

const end = {
  finish_reason: "stop",
  refused: false,
  sources: [],
  usage: null,
  timings: {},
  topics: [],
  citations: null,
};
const whole = (text: string) => [{ text_output: text }, { text_output: "", ...end }] as unknown as StreamEvent[];

function transformer(events: readonly StreamEvent[], then: () => Promise<void> = () => Promise.resolve()): void {
  kept.ask = async function* () {
    yield* events;
    await then();
  } as never;
}

async function refusing(): Promise<never> {
  const { ApiError, unreachable } = await import("../src/api/http");
  throw new ApiError({ ...unreachable(), status: 401, code: "unauthorized" });
}

const never = () => new Promise<void>(() => undefined);

function session(): Storage {
  const values = new Map<string, string>();
  return {
    getItem: (key: string) => values.get(key) ?? null,
    setItem: (key: string, value: string) => void values.set(key, value),
    removeItem: (key: string) => void values.delete(key),
  } as Storage;
}

/** A page that is opened: in a tab of its own, or again in the same one. */
async function page(hash = "", tab = session()) {
  vi.resetModules();
  const listeners: Record<string, () => void> = {};
  const location = { hash, pathname: "/", search: "" };
  const moves: string[] = [];
  const to = (kind: string) => (_: unknown, __: string, address: string) => {
    moves.push(`${kind} ${address}`);
    location.hash = address.startsWith("#") ? address : "";
  };
  vi.stubGlobal("location", location);
  vi.stubGlobal("window", { history: { pushState: to("push"), replaceState: to("replace") } });
  vi.stubGlobal("sessionStorage", tab);
  vi.stubGlobal("BroadcastChannel", Channel);
  vi.stubGlobal("document", { hidden: true });
  vi.stubGlobal("addEventListener", (name: string, act: () => void) => (listeners[name] = act));
  const store = await import("../src/chat/store");
  await store.start();
  return {
    ...store,
    tab,
    location,
    moves,
    leave: () => listeners["pagehide"]?.(),
    turns: () => store.currentConversation(store.useChat.getState())?.turns ?? [],
    questions: () => store.currentConversation(store.useChat.getState())?.turns.map(({ question }) => question),
  };
}

const settled = (ms = 1000) => vi.advanceTimersByTimeAsync(ms);

beforeEach(() => {
  vi.useFakeTimers();
  kept.stored.clear();
  kept.channels.clear();
  kept.slow.clear();
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("who is not signed in any more", () => {
  it("loses no turn that was to be replaced", async () => {
    const one = await page();
    transformer(whole("A."));
    one.ask("first");
    await settled();
    one.ask("second");
    await settled();
    transformer([], refusing);
    one.askAgain(one.turns()[0]?.id ?? "", "first, edited");
    await settled();
    expect(one.questions()).toEqual(["first", "second"]);
    expect(one.useChat.getState().returned?.question).toBe("first, edited");
  });

  it("finds the question where it was asked, once another conversation is open", async () => {
    const one = await page();
    transformer([], () => new Promise((resolve) => setTimeout(resolve, 100)).then(refusing));
    one.ask("first");
    const id = one.useChat.getState().currentId ?? "";
    await one.newConversation();
    await settled();
    await one.openConversation(id);
    expect(one.questions()).toEqual(["first"]);
    expect(one.turns()[0]?.answers[0]?.failure?.status).toBe(401);
  });
});

describe("the conversation before a question", () => {
  const named = (turns: string | null) => [{ text_output: "A." }, { text_output: "", ...end, turns }] as StreamEvent[];

  /** Asks two questions; returns what was sent of the first with the second. */
  async function second(turns: string | null, refuse: (request: object) => boolean = () => false) {
    const sent: object[] = [];
    kept.ask = async function* (request: object) {
      const { ApiError, unreachable } = await import("../src/api/http");
      sent.push(request);
      if (refuse(request))
        throw new ApiError({ ...unreachable(), status: 400, code: "invalid_request", field: "turns" });
      yield* named(turns);
    } as never;
    const one = await page();
    one.ask("first");
    await settled();
    one.ask("second");
    await settled();
    expect(one.turns()[1]?.answers[0]?.status).toBe("done");
    return sent.slice(1);
  }

  const messages = [
    { role: "user", content: "first" },
    { role: "assistant", content: "A." },
  ];

  it("is named by the turns of the last answer", async () => {
    const [request] = await second("signed");
    expect(request).toMatchObject({ text_input: "second", turns: "signed" });
    expect(request).not.toHaveProperty("history");
  });

  it("is sent as messages if the answer has no turns", async () => {
    const [request] = await second(null);
    expect(request).toMatchObject({ text_input: "second", history: messages });
  });

  it("is sent as messages once if the turns are refused", async () => {
    const [refused, request, ...more] = await second("signed", (sent) => "turns" in sent);
    expect(refused).toHaveProperty("turns");
    expect(request).toMatchObject({ text_input: "second", history: messages });
    expect(more).toEqual([]);
  });
});

describe("a page that is left", () => {
  it("keeps an answer that has only just ended", async () => {
    const one = await page();
    transformer(whole("All of it."));
    one.ask("first");
    await settled(120);
    expect(one.turns()[0]?.answers[0]?.status).toBe("done");
    one.leave();
    const other = await page(one.location.hash, one.tab);
    expect(other.turns()[0]?.answers[0]).toMatchObject({ status: "done", text: "All of it." });
  });

  it("keeps a question that was only just asked, and lists it", async () => {
    const one = await page();
    transformer([], never);
    one.ask("first");
    await settled(10);
    one.leave();
    const other = await page(one.location.hash, one.tab);
    expect(other.questions()).toEqual(["first"]);
    expect(other.useChat.getState().conversations).toHaveLength(1);
    other.leave();
    const third = await page(other.location.hash, other.tab);
    expect(third.questions()).toEqual(["first"]);
  });

  it("keeps what is written in every conversation", async () => {
    const one = await page();
    transformer([{ text_output: "Half" }], never);
    one.ask("first");
    const first = one.location.hash;
    await one.newConversation();
    one.ask("second");
    await settled(120);
    one.leave();
    const other = await page(one.location.hash, one.tab);
    expect(other.questions()).toEqual(["second"]);
    await other.openConversation(first.slice("#/c/".length));
    expect(other.turns()[0]).toMatchObject({ question: "first", answers: [{ status: "interrupted", text: "Half" }] });
  });

  it("does not bring back what was being replaced", async () => {
    const one = await page();
    transformer(whole("A."));
    one.ask("first");
    await settled();
    one.ask("second");
    await settled();
    transformer([], never);
    one.askAgain(one.turns()[0]?.id ?? "", "edited");
    one.leave();
    const other = await page(one.location.hash, one.tab);
    expect(other.questions()).toEqual(["edited"]);
  });
});

describe("two tabs", () => {
  it("lose nothing of each other in one conversation", async () => {
    transformer(whole("A."));
    const one = await page();
    one.ask("first");
    await settled();
    const other = await page(one.location.hash);
    other.ask("asked in the other");
    await settled();
    one.ask("asked in the first");
    await settled();
    const third = await page(one.location.hash);
    expect(third.questions()).toEqual(["first", "asked in the other", "asked in the first"]);
  });
});

describe("the address", () => {
  it("of a conversation that is not there is replaced, so that Back leads back", async () => {
    const one = await page("#/c/gone");
    expect(one.moves).toEqual(["replace /"]);
  });
});

describe("a conversation that takes long to read", () => {
  it("does not take the place of what was opened after it", async () => {
    transformer(whole("A."));
    const one = await page();
    one.ask("first");
    await settled();
    const id = one.useChat.getState().currentId ?? "";
    const other = await page();
    kept.slow.set(`conversation:${id}`, 300);
    const opening = other.openConversation(id);
    await other.newConversation();
    other.ask("second");
    await settled();
    await opening;
    expect(other.questions()).toEqual(["second"]);
  });
});

describe("a question that is sent while an answer is running", () => {
  /** Answers each question when `finish` is called. */
  function waiting() {
    const finish: (() => void)[] = [];
    kept.ask = async function* () {
      await new Promise<void>((resolve) => finish.push(resolve));
      yield* whole("A.");
    } as never;
    return () => finish.shift()?.();
  }

  it("waits for it and is asked in its conversation", async () => {
    const finish = waiting();
    const one = await page();
    one.ask("first");
    one.ask("second");
    one.ask("third");
    one.ask("fourth");
    one.unqueue(1);
    expect(one.queuedQuestions(one.useChat.getState())).toEqual(["second", "fourth"]);
    const id = one.useChat.getState().currentId ?? "";
    await one.newConversation();
    for (let turn = 0; turn < 3; turn++) {
      await settled();
      finish();
    }
    await settled();
    await one.openConversation(id);
    expect(one.questions()).toEqual(["first", "second", "fourth"]);
  });

  it("returns to the composer after a stop", async () => {
    const one = await page();
    kept.ask = async function* (_: unknown, signal: AbortSignal) {
      yield { text_output: "Half" };
      await new Promise((_, reject) => signal.addEventListener("abort", reject));
    } as never;
    one.ask("first");
    one.ask("second");
    one.ask("third");
    await settled();
    one.stop();
    await settled();
    expect(one.questions()).toEqual(["first"]);
    expect(one.useChat.getState().returned).toEqual({ question: "second\nthird", failure: null });
  });

  it("becomes the draft of its conversation if another one is open when the answer fails", async () => {
    const one = await page();
    transformer([], () => new Promise((resolve) => setTimeout(resolve, 100)).then(refusing));
    one.ask("first");
    one.ask("second");
    const id = one.useChat.getState().currentId ?? "";
    await one.newConversation();
    await settled();
    expect(one.tab.getItem(`kserve-rag.draft.${id}`)).toBe("second");
  });
});

describe("the list of conversations", () => {
  async function two() {
    transformer(whole("A duck swims."));
    const one = await page();
    one.ask("first");
    await settled();
    await one.newConversation();
    one.ask("second");
    await settled();
    const titles = () => one.useChat.getState().conversations.map(({ title }) => title);
    return { one, titles, ids: one.useChat.getState().conversations.map(({ id }) => id) };
  }

  it("gets back a deleted conversation, at its place", async () => {
    const { one, titles, ids } = await two();
    const other = await page();
    await other.removeConversation(ids[1] ?? "");
    expect(other.useChat.getState().conversations).toHaveLength(1);
    expect(kept.stored.has(`conversation:${ids[1]}`)).toBe(false);
    await other.undoRemove();
    await settled();
    expect(other.questions()).toEqual(["first"]);
    const third = await page(`#/c/${ids[1]}`);
    expect(third.questions()).toEqual(["first"]);
    expect(third.useChat.getState().conversations.map(({ title }) => title)).toEqual(titles());
    expect(one.questions()).toEqual(["second"]);
  });

  it("keeps a new title, and ignores a blank one", async () => {
    const { one, titles, ids } = await two();
    await one.renameConversation(ids[1] ?? "", "  Ducks ");
    await one.renameConversation(ids[0] ?? "", " ");
    await settled();
    expect(titles()).toEqual(["second", "Ducks"]);
    const other = await page();
    expect(other.useChat.getState().conversations.map(({ title }) => title)).toEqual(["second", "Ducks"]);
  });

  it("is searched by titles, questions and answers", async () => {
    const { ids } = await two();
    const { search } = await import("../src/chat/archive");
    expect(await search("FIRST")).toEqual(new Set([ids[1]]));
    expect(await search("duck")).toEqual(new Set(ids));
    expect(await search("geese")).toEqual(new Set());
  });
});

describe("a draft", () => {
  it("belongs to its conversation, and the first question ends that of a new one", async () => {
    const one = await page();
    const { draftOf, keepDraft } = await import("../src/chat/drafts");
    keepDraft(null, "half a question");
    keepDraft("a", "about a");
    expect([draftOf(null), draftOf("a"), draftOf("b")]).toEqual(["half a question", "about a", ""]);
    transformer(whole("A."));
    one.ask("half a question, finished");
    expect(draftOf(null)).toBe("");
  });
});

describe("another tab", () => {
  it("shows a finished answer, a rename and a removal", async () => {
    const one = await page();
    transformer(whole("A."));
    one.ask("first");
    await settled();
    const other = await page(one.location.hash);
    expect(other.questions()).toEqual(["first"]);
    one.ask("second");
    await settled();
    expect(other.questions()).toEqual(["first", "second"]);
    expect(other.turns()[1]?.answers[0]?.status).toBe("done");
    const id = other.useChat.getState().currentId ?? "";
    await other.renameConversation(id, "Renamed");
    await settled();
    expect(one.useChat.getState().conversations.map(({ title }) => title)).toEqual(["Renamed"]);
    await one.removeConversation(id);
    await settled();
    expect(other.useChat.getState().conversations).toEqual([]);
    expect(other.questions()).toEqual(["first", "second"]);
  });

  it("changes nothing of an answer that is being written here", async () => {
    const one = await page();
    transformer(whole("A."));
    one.ask("first");
    await settled();
    const other = await page(one.location.hash);
    transformer([{ text_output: "B" }], never);
    other.ask("mine");
    await settled();
    transformer(whole("C."));
    one.ask("theirs");
    await settled();
    expect(other.questions()).toEqual(["first", "mine"]);
    expect(other.turns()[1]?.answers[0]?.text).toBe("B");
  });
});

describe("an address of another browser", () => {
  it("says that the conversation is not here, until one is opened", async () => {
    const one = await page("#/c/elsewhere");
    expect(one.useChat.getState().missing).toBe(true);
    expect(one.location.hash).toBe("");
    transformer(whole("A."));
    one.ask("first");
    expect(one.useChat.getState().missing).toBe(false);
  });
});
