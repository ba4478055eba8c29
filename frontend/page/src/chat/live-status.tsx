/** Announces progress and the complete answer to screen readers. */

import { useChat, currentConversation } from "./store";
import { isTurnRunning, type Turn } from "./turns";

export function LiveStatus() {
  const text = useChat((state) => announcement(currentConversation(state)?.turns.at(-1)));
  return (
    <div className="sr-only" role="status" aria-live="polite">
      {text}
    </div>
  );
}

function announcement(turn: Turn | undefined): string {
  if (!turn) return "";
  if (isTurnRunning(turn))
    return turn.answers.some(({ text }) => text !== "") ? "The answer is being written." : "Searching.";
  return turn.answers
    .map((answer) => {
      if (answer.status === "failed") return "The question could not be answered.";
      const end = { stopped: " Stopped.", interrupted: " Interrupted." }[answer.status as string] ?? "";
      return `${turn.answers.length > 1 ? (answer.grounded ? "With documents: " : "Without documents: ") : "Answer: "}${answer.text}${end}`;
    })
    .join(" ");
}
