/** The answers to one question: one, or with and without documents side by side. */

import { MessagePrimitive, useAuiState } from "@assistant-ui/react";
import { memo } from "react";
import { AnswerView } from "./answer-view";
import { turnOf } from "./runtime";
import { currentConversation, findTurn, useChat } from "./store";

export function AnswerMessage() {
  const turnId = useAuiState((state) => turnOf(state.message.id));
  return (
    <MessagePrimitive.Root className="answer">
      <Answers turnId={turnId} />
    </MessagePrimitive.Root>
  );
}

const Answers = memo(function Answers({ turnId }: { turnId: string }) {
  const turn = useChat((state) => findTurn(state, turnId));
  const last = useChat((state) => currentConversation(state)?.turns.at(-1)?.id === turnId);
  if (!turn) return null;
  const compared = turn.answers.length > 1;
  return (
    <div className={compared ? "answers compared" : "answers"}>
      {turn.answers.map((answer, index) => (
        <AnswerView key={index} turnId={turnId} answer={answer} compared={compared} last={last} />
      ))}
    </div>
  );
});
