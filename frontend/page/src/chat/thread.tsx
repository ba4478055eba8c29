/** The open conversation: questions, answers and the composer. */

import { ThreadPrimitive } from "@assistant-ui/react";
import { ArrowDown, Menu, SquarePen } from "lucide-react";
import { useEffect } from "react";
import { setSidebar } from "../ui/panels";
import { focusQuestion } from "../ui/shortcuts";
import { AnswerMessage } from "./answer-message";
import { Composer } from "./composer";
import { LiveStatus } from "./live-status";
import { EditQuestion, Question } from "./question";
import { currentConversation, newConversation, useChat } from "./store";
import { Welcome } from "./welcome";

const renderMessage = ({ message }: { message: { role: string; composer: { isEditing: boolean } } }) =>
  message.role === "assistant" ? <AnswerMessage /> : message.composer.isEditing ? <EditQuestion /> : <Question />;

export function Thread() {
  const ready = useChat((state) => state.ready);
  const empty = useChat((state) => !currentConversation(state)?.turns.length);
  const title = useChat((state) => currentConversation(state)?.title);
  const currentId = useChat((state) => state.currentId);
  useEffect(() => {
    if (ready && matchMedia("(hover: hover)").matches) focusQuestion();
  }, [ready, currentId]);
  return (
    <main className={empty ? "thread empty" : "thread"}>
      <header className="topbar">
        <button
          type="button"
          className="icon-button"
          onClick={() => setSidebar(true)}
          aria-label="Conversations and settings"
        >
          <Menu aria-hidden />
        </button>
        <h1 dir="auto">{title ?? "New conversation"}</h1>
        <button
          type="button"
          className="icon-button"
          onClick={() => void newConversation().then(focusQuestion)}
          aria-label="New conversation"
        >
          <SquarePen aria-hidden />
        </button>
      </header>
      <ThreadPrimitive.Root className="thread-root">
        <ThreadPrimitive.Viewport className="viewport" data-testid="viewport" scrollToBottomOnThreadSwitch>
          {ready && empty && <Welcome />}
          <div className="messages">
            <ThreadPrimitive.Messages>{renderMessage}</ThreadPrimitive.Messages>
          </div>
          <div className="composer-dock">
            <ThreadPrimitive.ScrollToBottom asChild>
              <button type="button" className="to-bottom icon-button" aria-label="To the latest answer">
                <ArrowDown aria-hidden />
              </button>
            </ThreadPrimitive.ScrollToBottom>
            <Composer />
          </div>
        </ThreadPrimitive.Viewport>
      </ThreadPrimitive.Root>
      <LiveStatus />
    </main>
  );
}
