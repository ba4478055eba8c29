/**
 * Connects the store to assistant-ui, which handles scrolling, composing, editing, copying and their keyboard.
 *
 * It gets the start and end of each turn, not every token: the view of an answer reads streaming text from the store.
 */

import { AssistantRuntimeProvider, useExternalStoreRuntime, type ThreadMessageLike } from "@assistant-ui/react";
import { useMemo, type ReactNode } from "react";
import { useShallow } from "zustand/react/shallow";
import { ask, askAgain, currentConversation, isAnswering, stop, useChat } from "./store";
import { isTurnRunning, type Turn } from "./turns";

const NONE: ThreadMessageLike[] = [];

/** Message ids of a turn's question and answer. */
export const questionId = (turnId: string) => `${turnId}.q`;
export const answerId = (turnId: string) => `${turnId}.a`;
export const turnOf = (messageId: string) => messageId.slice(0, -2);

export function ChatRuntime({ children }: { children: ReactNode }) {
  const messages = useMessages();
  const isRunning = useChat(isAnswering);
  const adapter = useMemo(
    () => ({
      messages,
      isRunning,
      convertMessage: (message: ThreadMessageLike) => message,
      onNew: ({ content }: { content: Content }) => done(() => ask(textOf(content))),
      onEdit: ({ sourceId, content }: { sourceId: string | null; content: Content }) =>
        done(() => sourceId !== null && askAgain(turnOf(sourceId), textOf(content))),
      onReload: (parentId: string | null) => done(() => parentId !== null && askAgain(turnOf(parentId))),
      onCancel: () => done(stop),
    }),
    [messages, isRunning],
  );
  const runtime = useExternalStoreRuntime(adapter);
  return <AssistantRuntimeProvider runtime={runtime}>{children}</AssistantRuntimeProvider>;
}

/** The store is synchronous; assistant-ui expects promises. */
function done(act: () => unknown): Promise<void> {
  act();
  return Promise.resolve();
}

type Content = readonly { type: string; text?: string }[];

function textOf(content: Content): string {
  return content.map((part) => (part.type === "text" ? (part.text ?? "") : "")).join("");
}

function useMessages(): ThreadMessageLike[] {
  const cached = useMemo(() => new Map<string, { key: string; messages: ThreadMessageLike[] }>(), []);
  return useChat(
    useShallow((state) => {
      const turns = currentConversation(state)?.turns;
      return turns ? turns.flatMap((turn) => messagesOf(turn, cached)) : NONE;
    }),
  );
}

function messagesOf(
  turn: Turn,
  cached: Map<string, { key: string; messages: ThreadMessageLike[] }>,
): ThreadMessageLike[] {
  const running = isTurnRunning(turn);
  const key = running ? "running" : turn.answers.map((answer) => `${answer.status} ${answer.endedAt ?? 0}`).join();
  const before = cached.get(turn.id);
  if (before?.key === key) return before.messages;
  const messages: ThreadMessageLike[] = [
    { role: "user", id: questionId(turn.id), content: [{ type: "text", text: turn.question }] },
    {
      role: "assistant",
      id: answerId(turn.id),
      content: [{ type: "text", text: running ? "" : (turn.answers[0]?.text ?? "") }],
      status: running ? { type: "running" } : { type: "complete", reason: "stop" },
    },
  ];
  cached.set(turn.id, { key, messages });
  return messages;
}
