/**
 * Conversations in this browser's IndexedDB, stored nowhere else.
 *
 * A streaming answer goes to sessionStorage when the page closes: writes are synchronous and belong to this tab.
 */

import { createStore, del, get, getMany, update } from "idb-keyval";
import { ended } from "./answer";
import { isTurnRunning, type Conversation, type ConversationSummary, type Turn } from "./turns";

const LIST = "list";

const store = createStore("kserve-rag", "conversations");
const key = (id: string) => `conversation:${id}`;
const unfinishedKey = (id: string) => `kserve-rag.unfinished.${id}`;

/** Ids of turns that this tab has read or written: all others come from other tabs. */
const read = new Set<string>();
const written = new Set<string>();

/** Tells the other tabs which conversation has been saved or removed. */
const channel = new BroadcastChannel("kserve-rag.conversations");

/** A conversation at page close: its last turn, and the removed turns. */
type Unfinished = Conversation & { gone: string[] };

/** Calls back when another tab has saved a conversation whose answers are complete, or removed one. */
export function watch(changed: (id: string) => void): void {
  channel.onmessage = (message: MessageEvent<string>) => changed(message.data);
}

/** All conversations, newest first. */
export async function list(): Promise<ConversationSummary[]> {
  const found = (await get<ConversationSummary[]>(LIST, store)) ?? [];
  return found.sort((a, b) => b.updatedAt - a.updatedAt);
}

/** Loads a conversation; answers that were streaming become interrupted. */
export async function load(id: string): Promise<Conversation | null> {
  const kept = await get<Conversation>(key(id), store);
  const unfinished = takeUnfinished(id);
  const found = unfinished ? merged(kept?.turns ?? [], unfinished) : kept;
  if (!found) return null;
  const conversation = { ...found, turns: found.turns.map(interrupted) };
  if (unfinished) await put(conversation, () => conversation).catch(() => undefined);
  for (const turn of conversation.turns) read.add(turn.id);
  return conversation;
}

/** Saves a conversation, keeping turns that other tabs added. */
export async function save(conversation: Conversation): Promise<void> {
  for (const { id } of conversation.turns) if (!read.has(id)) written.add(id);
  await put(conversation, (kept) => {
    const turns = conversation.turns.map((turn) =>
      read.has(turn.id) ? (kept?.turns.find((other) => other.id === turn.id) ?? turn) : turn,
    );
    const others = kept?.turns.filter(({ id }) => !read.has(id) && !written.has(id)) ?? [];
    if (others.length === 0) return { ...conversation, turns };
    return { ...conversation, turns: [...turns, ...others].sort((a, b) => askedAt(a) - askedAt(b)) };
  });
}

async function put(conversation: Conversation, how: (kept: Conversation | undefined) => Conversation): Promise<void> {
  await update<Conversation>(key(conversation.id), how, store);
  const { id, title, createdAt, updatedAt } = conversation;
  await update<ConversationSummary[]>(
    LIST,
    (before = []) => [...before.filter((other) => other.id !== id), { id, title, createdAt, updatedAt }],
    store,
  );
  if (!conversation.turns.some(isTurnRunning)) channel.postMessage(id);
}

/** Ids of the conversations whose title, questions or answers contain a text, regardless of case. */
export async function search(text: string): Promise<Set<string>> {
  const wanted = text.trim().toLowerCase();
  const known = await list();
  const all = await getMany<Conversation | undefined>(
    known.map(({ id }) => key(id)),
    store,
  );
  const found = known.filter(({ title }, index) => {
    const turns = all[index]?.turns ?? [];
    const texts = turns.flatMap(({ question, answers }) => [question, ...answers.map((answer) => answer.text)]);
    return [title, ...texts].some((one) => one.toLowerCase().includes(wanted));
  });
  return new Set(found.map(({ id }) => id));
}

export async function remove(id: string): Promise<void> {
  sessionStorage.removeItem(unfinishedKey(id));
  await del(key(id), store);
  await update<ConversationSummary[]>(LIST, (before = []) => before.filter((other) => other.id !== id), store);
  channel.postMessage(id);
}

/** Saves the last turn of a conversation when the page closes. */
export function keepUnfinished(conversation: Conversation): void {
  const { id, turns } = conversation;
  const gone = [...read, ...written].filter((known) => !turns.some((turn) => turn.id === known));
  const unfinished: Unfinished = { ...conversation, turns: turns.slice(-1), gone };
  try {
    sessionStorage.setItem(unfinishedKey(id), JSON.stringify(unfinished));
  } catch {
    // Quota exceeded: IndexedDB's slightly older copy remains.
  }
}

function takeUnfinished(id: string): Unfinished | null {
  const text = sessionStorage.getItem(unfinishedKey(id));
  if (!text) return null;
  sessionStorage.removeItem(unfinishedKey(id));
  return JSON.parse(text) as Unfinished;
}

function merged(kept: readonly Turn[], { gone, ...unfinished }: Unfinished): Conversation {
  const final = kept.filter((turn) => !isTurnRunning(turn));
  const added = unfinished.turns.filter((turn) => !final.some((other) => other.id === turn.id));
  const left = kept.filter(({ id }) => !gone.includes(id) && !added.some((turn) => turn.id === id));
  return { ...unfinished, turns: [...left, ...added] };
}

const askedAt = (turn: Turn) => turn.answers[0]?.askedAt ?? 0;

function interrupted(turn: Turn): Turn {
  return isTurnRunning(turn) ? { ...turn, answers: turn.answers.map((answer) => ended(answer, Date.now())) } : turn;
}
