/** A question and its editor. */

import { ActionBarPrimitive, ComposerPrimitive, MessagePrimitive, useAuiState } from "@assistant-ui/react";
import { Pencil } from "lucide-react";
import { CopyButton } from "../ui/copy-button";
import { turnOf } from "./runtime";
import { currentConversation, findTurn, useChat } from "./store";

export function Question() {
  const turnId = useAuiState((state) => turnOf(state.message.id));
  const question = useChat((state) => findTurn(state, turnId)?.question ?? "");
  return (
    <MessagePrimitive.Root className="question">
      <ActionBarPrimitive.Root className="actions" hideWhenRunning>
        <CopyButton label="Copy the question" title="Copy" text={() => question} />
        <ActionBarPrimitive.Edit className="icon-button" aria-label="Edit the question" title="Edit">
          <Pencil aria-hidden />
        </ActionBarPrimitive.Edit>
      </ActionBarPrimitive.Root>
      <div className="question-bubble">
        <h2 className="sr-only">Question</h2>
        <div dir="auto">{question}</div>
      </div>
    </MessagePrimitive.Root>
  );
}

export function EditQuestion() {
  const turnId = useAuiState((state) => turnOf(state.message.id));
  const followed = useChat((state) => {
    const turns = currentConversation(state)?.turns ?? [];
    return turns.length - 1 - turns.findIndex((turn) => turn.id === turnId);
  });
  return (
    <ComposerPrimitive.Root className="edit-question">
      {/* It replaces the pressed button, so it takes the focus. */}
      {/* eslint-disable-next-line jsx-a11y/no-autofocus */}
      <ComposerPrimitive.Input className="edit-input" dir="auto" aria-label="Edit the question" autoFocus />
      <div className="edit-actions">
        {followed > 0 && <p>Later turns will be replaced.</p>}
        <ComposerPrimitive.Cancel className="button quiet">Cancel</ComposerPrimitive.Cancel>
        <ComposerPrimitive.Send className="button">Ask</ComposerPrimitive.Send>
      </div>
    </ComposerPrimitive.Root>
  );
}
