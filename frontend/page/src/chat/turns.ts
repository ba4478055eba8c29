/** Conversations, and what is sent of them with the next question. */

import { MAX_MESSAGES, type GenerateRequest, type Message } from "../api/wire";
import type { Settings } from "../settings/settings";
import { isRunning, type Answer } from "./answer";

/** A question and its answers: one, or with and without documents side by side. */
export interface Turn {
  id: string;
  question: string;
  settings: Settings;
  answers: Answer[];
}

export interface Conversation {
  id: string;
  title: string;
  createdAt: number;
  updatedAt: number;
  turns: Turn[];
}

/** Entry of the list of conversations. */
export type ConversationSummary = Omit<Conversation, "turns">;

const MOST_TURNS = 20;

/** Earlier turns in the transformer's format, oldest first, without unanswered questions. */
export function history(turns: readonly Turn[]): Message[] {
  const messages = turns.slice(-MOST_TURNS).flatMap((turn): Message[] => {
    const answer = turn.answers[0];
    if (!answer?.text.trim()) return [];
    return [
      { role: "user", content: turn.question },
      { role: "assistant", content: answer.text },
    ];
  });
  return messages.slice(-MAX_MESSAGES);
}

/** The conversation before a question: the last answer's `turns`, or the messages if it has none. */
export function earlier(turns: readonly Turn[]): Pick<GenerateRequest, "turns" | "history"> {
  const last = turns.findLast((turn) => turn.answers[0]?.text.trim())?.answers[0];
  return last?.turns ? { turns: last.turns } : { history: history(turns) };
}

export const isTurnRunning = (turn: Turn) => turn.answers.some(isRunning);
