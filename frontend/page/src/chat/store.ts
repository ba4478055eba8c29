/** The store of conversations: the open one, running answers, and all actions. */

import { create } from "zustand";
import { ApiError, unreachable, type Failure } from "../api/http";
import { ask as askTransformer } from "../api/transformer";
import type { StreamEvent } from "../api/wire";
import { useCatalog } from "../api/catalog";
import { parameters, useSettings, type Settings } from "../settings/settings";
import { headline } from "../text/format";
import { newId } from "../text/ids";
import { asked, ended, failed, received, stopped, type Answer } from "./answer";
import * as archive from "./archive";
import { draftOf, keepDraft } from "./drafts";
import { everyFrame } from "./frames";
import { earlier, history, isTurnRunning, type Conversation, type ConversationSummary, type Turn } from "./turns";

interface ChatState {
  /** False until IndexedDB has been read. */
  ready: boolean;
  conversations: ConversationSummary[];
  /** Conversations that are open or being answered, by id. */
  loaded: Record<string, Conversation>;
  /** Null: a new, empty conversation. */
  currentId: string | null;
  /** A question that was not accepted: it returns to the composer with the reason. */
  returned: { question: string; failure: Failure | null } | null;
  /** Questions that wait for the running answer, by conversation. */
  queued: Record<string, string[]>;
  /** The conversation that was deleted last, for undo. */
  removed: Conversation | null;
  /** The URL names a conversation that this browser does not have. */
  missing: boolean;
  /** The browser stores nothing: conversations are lost when the page closes. */
  forgetful: boolean;
}

export const useChat = create<ChatState>()(() => ({
  ready: false,
  conversations: [],
  loaded: {},
  currentId: null,
  returned: null,
  queued: {},
  removed: null,
  missing: false,
  forgetful: false,
}));

const NO_QUESTIONS: readonly string[] = [];

export const queuedQuestions = (state: ChatState): readonly string[] =>
  (state.currentId === null ? undefined : state.queued[state.currentId]) ?? NO_QUESTIONS;

const running = new Map<string, AbortController>();

export const currentConversation = (state: ChatState): Conversation | undefined =>
  state.currentId === null ? undefined : state.loaded[state.currentId];

export function findTurn(state: ChatState, turnId: string): Turn | undefined {
  return currentConversation(state)?.turns.find((turn) => turn.id === turnId);
}

export const isAnswering = (state: ChatState): boolean =>
  currentConversation(state)?.turns.some(isTurnRunning) ?? false;

// ── conversations ───────────────────────────────────────────────────────────────────────────────────────────────────

/** Loads stored conversations and opens the one in the URL. */
export async function start(): Promise<void> {
  await followAddress();
  try {
    useChat.setState({ conversations: await archive.list() });
  } catch {
    useChat.setState({ forgetful: true });
  }
  useChat.setState({ ready: true });
  archive.watch((id) => void followTab(id));
  addEventListener("hashchange", () => void followAddress());
  addEventListener("pagehide", () => {
    for (const conversation of Object.values(useChat.getState().loaded)) {
      if (saving.has(conversation.id) || conversation.turns.some(isTurnRunning)) archive.keepUnfinished(conversation);
    }
  });
}

async function followAddress(): Promise<void> {
  const id = /^#\/c\/([\w-]+)$/.exec(location.hash)?.[1] ?? null;
  if (id === useChat.getState().currentId) return;
  // Do not go back to a deleted conversation.
  await show(id, "replaceState");
}

/** Takes over what another tab has done with a conversation, unless this tab is changing it. One that is open stays. */
async function followTab(id: string): Promise<void> {
  const stored = await archive.list();
  const unsaved = useChat.getState().conversations.filter((one) => saving.has(one.id));
  const others = stored.filter((one) => !saving.has(one.id));
  useChat.setState({ conversations: [...unsaved, ...others].sort((a, b) => b.updatedAt - a.updatedAt) });
  const own = () => useChat.getState().loaded[id];
  const busy = () => saving.has(id) || own()?.turns.some(isTurnRunning) !== false;
  if (busy()) return;
  const conversation = await archive.load(id);
  if (conversation && !busy()) put(conversation);
}

/** Counts openings, so that a slow load does not replace a conversation opened later. */
let opened = 0;

async function show(id: string | null, move: "pushState" | "replaceState" = "pushState"): Promise<void> {
  const at = ++opened;
  let missing = false;
  if (id !== null && !useChat.getState().loaded[id]) {
    const conversation = await archive.load(id).catch(() => null);
    if (at !== opened) return;
    if (conversation) put(conversation);
    else {
      missing = true;
      id = null;
    }
  }
  useChat.setState({ currentId: id, returned: null, missing });
  const hash = id === null ? "" : `#/c/${id}`;
  if (location.hash !== hash) window.history[move](null, "", hash || location.pathname + location.search);
}

export const openConversation = (id: string) => show(id);

export const newConversation = () => show(null);

/** Deletes a conversation. `undoRemove` brings back the last one. */
export async function removeConversation(id: string): Promise<void> {
  const removed = await whole(id);
  for (const turn of removed?.turns ?? []) running.get(turn.id)?.abort();
  if (useChat.getState().currentId === id) await show(null);
  const { loaded, queued, conversations } = useChat.getState();
  const { [id]: _, ...others } = loaded;
  const { [id]: __, ...waiting } = queued;
  const now = Date.now();
  const turns = removed?.turns.map((turn) => ({ ...turn, answers: turn.answers.map((one) => stopped(one, now)) }));
  useChat.setState({
    loaded: others,
    queued: waiting,
    conversations: conversations.filter((one) => one.id !== id),
    removed: removed && turns ? { ...removed, turns } : null,
  });
  keepDraft(id, "");
  await archive.remove(id).catch(() => undefined);
}

export async function undoRemove(): Promise<void> {
  const { removed, conversations } = useChat.getState();
  if (!removed) return;
  const { turns: _, ...summary } = removed;
  const sorted = [summary, ...conversations].sort((a, b) => b.updatedAt - a.updatedAt);
  useChat.setState({ removed: null, conversations: sorted });
  put(removed);
  keep(removed.id);
  await show(removed.id);
}

export function forgetRemoved(): void {
  useChat.setState({ removed: null });
}

/** Renames a conversation; a blank title changes nothing. */
export async function renameConversation(id: string, title: string): Promise<void> {
  const named = title.trim();
  const conversation = await whole(id);
  if (!named || !conversation) return;
  put({ ...conversation, title: named });
  useChat.setState(({ conversations }) => ({
    conversations: conversations.map((one) => (one.id === id ? { ...one, title: named } : one)),
  }));
  keep(id);
}

/** A conversation, loaded if necessary; null if this browser does not have it. */
export async function whole(id: string): Promise<Conversation | null> {
  return useChat.getState().loaded[id] ?? (await archive.load(id).catch(() => null));
}

function put(conversation: Conversation): void {
  useChat.setState(({ loaded }) => ({ loaded: { ...loaded, [conversation.id]: conversation } }));
}

/** Replaces a loaded conversation, unless it was removed meanwhile. */
function change(id: string, how: (conversation: Conversation) => Conversation): void {
  const before = useChat.getState().loaded[id];
  if (before) put(how(before));
}

function changeAnswer(id: string, turnId: string, index: number, how: (answer: Answer) => Answer): void {
  change(id, (conversation) => ({
    ...conversation,
    turns: conversation.turns.map((turn) =>
      turn.id === turnId ? { ...turn, answers: turn.answers.map((one, i) => (i === index ? how(one) : one)) } : turn,
    ),
  }));
}

const saving = new Map<string, ReturnType<typeof setTimeout>>();

/** Saves a conversation soon, batching further changes. */
function keep(id: string): void {
  if (saving.has(id)) return;
  const save = () => {
    saving.delete(id);
    const conversation = useChat.getState().loaded[id];
    if (conversation) void archive.save(conversation).catch(() => useChat.setState({ forgetful: true }));
  };
  saving.set(id, setTimeout(save, 400));
}

function touch(id: string): void {
  const conversation = useChat.getState().loaded[id];
  if (!conversation) return;
  const { turns: _, ...summary } = conversation;
  useChat.setState(({ conversations }) => ({
    conversations: [summary, ...conversations.filter((other) => other.id !== id)],
  }));
  keep(id);
}

// ── questions ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** Asks in the open conversation, or starts one. While an answer is running, the question waits for it. */
export function ask(question: string): void {
  const text = question.trim();
  if (!text) return;
  const now = Date.now();
  let conversation = currentConversation(useChat.getState());
  if (conversation && isAnswering(useChat.getState())) {
    const { id } = conversation;
    useChat.setState(({ queued }) => ({ queued: { ...queued, [id]: [...(queued[id] ?? []), text] } }));
    return;
  }
  if (!conversation) {
    keepDraft(null, "");
    conversation = { id: newId(), title: headline(text), createdAt: now, updatedAt: now, turns: [] };
    put(conversation);
    opened++;
    useChat.setState({ currentId: conversation.id, missing: false });
    window.history.pushState(null, "", `#/c/${conversation.id}`);
  }
  begin(conversation.id, conversation.turns, text);
}

/** Asks a turn's question again, or an edited one. Drops the later turns. */
export function askAgain(turnId: string, question?: string): void {
  const conversation = currentConversation(useChat.getState());
  const at = conversation?.turns.findIndex((turn) => turn.id === turnId) ?? -1;
  const turn = conversation?.turns[at];
  if (!conversation || !turn || isAnswering(useChat.getState())) return;
  begin(conversation.id, conversation.turns.slice(0, at), question?.trim() || turn.question);
}

/** Takes a waiting question of the open conversation out of the queue. */
export function unqueue(index: number): void {
  const id = useChat.getState().currentId;
  if (id === null) return;
  useChat.setState(({ queued }) => ({
    queued: { ...queued, [id]: (queued[id] ?? []).filter((_, other) => other !== index) },
  }));
}

/** Asks the next waiting question. After a stop or a failure, all return to the draft instead. */
function askNext(id: string, turnId: string): void {
  const { queued, loaded, returned, currentId } = useChat.getState();
  const [next, ...rest] = queued[id] ?? [];
  const conversation = loaded[id];
  if (next === undefined || !conversation) return;
  const turn = conversation.turns.find((one) => one.id === turnId);
  if (turn?.answers.every((one) => one.status === "done")) {
    useChat.setState({ queued: { ...queued, [id]: rest } });
    begin(id, conversation.turns, next);
    return;
  }
  const waiting = [next, ...rest].join("\n");
  useChat.setState({ queued: { ...queued, [id]: [] } });
  if (currentId !== id) keepDraft(id, [draftOf(id), waiting].filter(Boolean).join("\n"));
  else if (returned) useChat.setState({ returned: { ...returned, question: `${returned.question}\n${waiting}` } });
  else useChat.setState({ returned: { question: waiting, failure: null } });
}

/** Stops the running answers of the open conversation. The services cancel the generation. */
export function stop(): void {
  for (const turn of currentConversation(useChat.getState())?.turns ?? []) running.get(turn.id)?.abort();
}

export function dismissReturned(): void {
  useChat.setState({ returned: null });
}

function begin(id: string, before: readonly Turn[], question: string): void {
  const { settings } = useSettings.getState();
  const now = Date.now();
  const grounded = settings.compare ? [true, false] : [settings.retrieval];
  const turn: Turn = { id: newId(), question, settings, answers: grounded.map((one) => asked(one, now)) };
  const replaced = useChat.getState().loaded[id]?.turns ?? [];
  useChat.setState({ returned: null });
  change(id, (conversation) => ({ ...conversation, updatedAt: now, turns: [...before, turn] }));
  touch(id);
  const controller = new AbortController();
  running.set(turn.id, controller);
  const answers = grounded.map((one, index) => answer(id, turn, index, one, before, settings, controller.signal));
  void Promise.all(answers).then(() => {
    running.delete(turn.id);
    giveBack(id, turn.id, replaced);
    touch(id);
    askNext(id, turn.id);
  });
}

async function answer(
  id: string,
  turn: Turn,
  index: number,
  grounded: boolean,
  before: readonly Turn[],
  settings: Settings,
  signal: AbortSignal,
): Promise<void> {
  const change = (how: (answer: Answer) => Answer) => changeAnswer(id, turn.id, index, how);
  const frames = everyFrame<StreamEvent>((events) => {
    const now = Date.now();
    change((one) => events.reduce((state, event) => received(state, event, now), one));
    keep(id);
  });
  try {
    const service = useCatalog.getState().models[0]?.id ?? "rag";
    const request = { text_input: turn.question, ...parameters(settings, grounded) };
    const send = async (conversation: ReturnType<typeof earlier>) => {
      const onOpen = (requestId: string | null) => change((one) => ({ ...one, requestId }));
      const events = askTransformer(service, { ...request, ...conversation }, signal, onOpen);
      for await (const event of events) frames.push(event);
    };
    await send(earlier(before)).catch((error: unknown) => {
      // The transformer was restarted, or another replica has another secret.
      if (error instanceof ApiError && error.failure.field === "turns") return send({ history: history(before) });
      throw error;
    });
    frames.flush();
    change((one) => ended(one, Date.now()));
  } catch (error) {
    frames.flush();
    const now = Date.now();
    if (signal.aborted) change((one) => stopped(one, now));
    else change((one) => failed(one, error instanceof ApiError ? error.failure : unreachable(), now));
  }
}

/**
 * After an expired session, returns the question to the composer and restores the turns that it would have replaced.
 *
 * If another conversation is open by now, the question stays in its turn.
 */
function giveBack(id: string, turnId: string, replaced: Turn[]): void {
  if (useChat.getState().currentId !== id) return;
  const conversation = useChat.getState().loaded[id];
  const turn = conversation?.turns.find((one) => one.id === turnId);
  const failure = turn?.answers.find(({ failure }) => failure?.status === 401 || failure?.status === 403)?.failure;
  if (!conversation || !turn || !failure || turn.answers.some((one) => one.text !== "")) return;
  put({ ...conversation, turns: replaced });
  useChat.setState({ returned: { question: turn.question, failure } });
}
