/**
 * Conversations in this browser's IndexedDB; nothing of them is kept anywhere else.
 *
 * What is being written while the page is left goes to sessionStorage, which is written at once and is this tab's own.
 */

import { createStore, del, get, set, update } from "idb-keyval";
import { ended } from "./answer";
import { isTurnRunning, type Conversation, type ConversationSummary, type Turn } from "./turns";

const LIST = "list";
const UNFINISHED = "kserve-rag.unfinished";

const store = createStore("kserve-rag", "conversations");
const key = (id: string) => `conversation:${id}`;

/** All conversations, the latest first. */
export async function list(): Promise<ConversationSummary[]> {
  const found = (await get<ConversationSummary[]>(LIST, store)) ?? [];
  return found.sort((a, b) => b.updatedAt - a.updatedAt);
}

/** A conversation as it was left: answers that were being written are interrupted. */
export async function load(id: string): Promise<Conversation | null> {
  const kept = await get<Conversation>(key(id), store);
  const unfinished = takeUnfinished(id);
  const conversation = unfinished ? merged(kept ?? unfinished, unfinished) : kept;
  return conversation ? { ...conversation, turns: conversation.turns.map(interrupted) } : null;
}

export async function save(conversation: Conversation): Promise<void> {
  await set(key(conversation.id), conversation, store);
  const { id, title, createdAt, updatedAt } = conversation;
  await update<ConversationSummary[]>(
    LIST,
    (before = []) => [...before.filter((other) => other.id !== id), { id, title, createdAt, updatedAt }],
    store,
  );
}

export async function remove(id: string): Promise<void> {
  await del(key(id), store);
  await update<ConversationSummary[]>(LIST, (before = []) => before.filter((other) => other.id !== id), store);
}

/** Keeps what is being written, of a conversation that the page leaves. Only its running turns. */
export function keepUnfinished(conversation: Conversation): void {
  const turns = conversation.turns.filter(isTurnRunning);
  try {
    sessionStorage.setItem(UNFINISHED, JSON.stringify({ ...conversation, turns }));
  } catch {
    // Full: what IndexedDB has, a moment older, is what remains.
  }
}

function takeUnfinished(id: string): Conversation | null {
  const text = sessionStorage.getItem(UNFINISHED);
  if (!text) return null;
  const conversation = JSON.parse(text) as Conversation;
  if (conversation.id !== id) return null;
  sessionStorage.removeItem(UNFINISHED);
  return conversation;
}

function merged(kept: Conversation, unfinished: Conversation): Conversation {
  const turns = kept.turns.map((turn) => unfinished.turns.find((other) => other.id === turn.id) ?? turn);
  const added = unfinished.turns.filter((turn) => !turns.some((other) => other.id === turn.id));
  return { ...kept, turns: [...turns, ...added] };
}

function interrupted(turn: Turn): Turn {
  return isTurnRunning(turn) ? { ...turn, answers: turn.answers.map((answer) => ended(answer, Date.now())) } : turn;
}
