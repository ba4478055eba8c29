/** The input for questions. */

import { ComposerPrimitive, useAui, useAuiState } from "@assistant-ui/react";
import { ArrowUp, Columns2, BookOpenText, Paperclip, Square, X } from "lucide-react";
import { useEffect, useRef, useState, type ClipboardEvent, type KeyboardEvent } from "react";
import { MAX_QUESTION_CHARS } from "../api/wire";
import { useCatalog } from "../api/catalog";
import { useSettings } from "../settings/settings";
import { clean, isBinary, refusal } from "../text/clean";
import { codePoints } from "../text/codepoints";
import { count, plural } from "../text/format";
import { openDocuments } from "../ui/panels";
import { draftOf, keepDraft } from "./drafts";
import { FailureNote } from "./failure";
import { focusQuestion } from "../ui/shortcuts";
import { ask, isAnswering, queuedQuestions, stop, unqueue, useChat } from "./store";

const COUNTED_FROM = 2_000;

export function Composer() {
  const aui = useAui();
  const text = useAuiState((state) => state.composer.text);
  const answering = useChat(isAnswering);
  const returned = useChat((state) => state.returned);
  const uploads = useCatalog((state) => state.config?.ingest) ?? false;
  const [note, setNote] = useState("");
  useDraft(text);

  useEffect(() => {
    if (!returned) return;
    const written = aui.composer.getState().text.trim();
    aui.composer.setText([returned.question, written].filter(Boolean).join("\n"));
  }, [returned, aui]);

  const length = text.length < COUNTED_FROM ? 0 : codePoints(text);
  const tooLong = length > 0 ? refusal(text) : null;

  const onPaste = (event: ClipboardEvent<HTMLTextAreaElement>) => {
    const files = [...event.clipboardData.files];
    const pasted = event.clipboardData.getData("text");
    setNote("");
    if (files.length > 0 && !pasted) {
      event.preventDefault();
      if (uploads) openDocuments(files);
      else setNote("You cannot ask a file. Paste its text instead.");
      return;
    }
    if (isBinary(pasted)) {
      event.preventDefault();
      setNote("The clipboard holds a file, not text. Nothing was pasted.");
      return;
    }
    const cleaned = clean(pasted);
    if (cleaned.removed > 0) {
      event.preventDefault();
      insert(event.currentTarget, cleaned.text);
      setNote(`${plural(cleaned.removed, "invisible control character")} left out.`);
    }
  };

  // assistant-ui does not send while an answer is running; the store queues the question.
  const onKeyDown = (event: KeyboardEvent<HTMLTextAreaElement>) => {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing || !answering || tooLong) return;
    event.preventDefault();
    if (!text.trim()) return;
    aui.composer.setText("");
    ask(text);
  };

  return (
    <div className="composer-area">
      {returned?.failure && <FailureNote failure={returned.failure} />}
      <Queue />
      <ComposerPrimitive.Root className="composer" aria-label="Question">
        <label className="sr-only" htmlFor="question">
          Question
        </label>
        <ComposerPrimitive.Input
          id="question"
          className="composer-input"
          placeholder={answering ? "Ask the next question" : "Ask a question"}
          dir="auto"
          maxRows={10}
          submitMode={tooLong ? "none" : "enter"}
          aria-describedby="question-note"
          aria-invalid={tooLong !== null}
          onPaste={onPaste}
          onKeyDown={onKeyDown}
          onChange={() => setNote("")}
          addAttachmentOnPaste={false}
        />
        <div className="composer-row">
          {uploads && (
            <button
              type="button"
              className="icon-button"
              onClick={() => openDocuments([])}
              aria-label="Add documents"
              title="Add documents"
            >
              <Paperclip aria-hidden />
            </button>
          )}
          <Modes />
          <span className="composer-space" />
          {answering ? (
            <button
              type="button"
              className="send"
              onClick={() => {
                stop();
                focusQuestion();
              }}
              aria-label="Stop the answer"
              title="Stop (Esc)"
            >
              <Square aria-hidden />
            </button>
          ) : (
            <ComposerPrimitive.Send
              className="send"
              aria-label="Ask"
              title="Ask (Enter)"
              {...(tooLong ? { disabled: true } : {})}
            >
              <ArrowUp aria-hidden />
            </ComposerPrimitive.Send>
          )}
        </div>
      </ComposerPrimitive.Root>
      <p
        className={tooLong ? "composer-note bad" : "composer-note"}
        id="question-note"
        role={tooLong || note ? "status" : undefined}
      >
        {tooLong ??
          (note ||
            (length > 0
              ? `${count(length)} of ${count(MAX_QUESTION_CHARS)} characters`
              : "Answers can be wrong. Check their sources."))}
      </p>
    </div>
  );
}

/** Toggles for documents and comparison, the most used settings. */
function Modes() {
  const { retrieval, compare } = useSettings((state) => state.settings);
  const set = useSettings((state) => state.set);
  return (
    <>
      <button
        type="button"
        className="mode"
        aria-pressed={retrieval || compare}
        disabled={compare}
        onClick={() => set({ retrieval: !retrieval })}
        title="Answer from the documents"
      >
        <BookOpenText aria-hidden />
        <span>Documents</span>
      </button>
      <button
        type="button"
        className="mode"
        aria-pressed={compare}
        onClick={() => set({ compare: !compare })}
        title="Answer with and without documents, side by side"
      >
        <Columns2 aria-hidden />
        <span>Compare</span>
      </button>
    </>
  );
}

/** Questions that wait for the running answer. */
function Queue() {
  const questions = useChat(queuedQuestions);
  if (questions.length === 0) return null;
  return (
    <ul className="queue" aria-label="Next questions">
      {questions.map((question, index) => (
        <li key={index}>
          <span dir="auto">{question}</span>
          <button
            type="button"
            className="icon-button"
            onClick={() => unqueue(index)}
            aria-label={`Do not ask “${question}”`}
            title="Remove"
          >
            <X aria-hidden />
          </button>
        </li>
      ))}
    </ul>
  );
}

/** Shows and keeps the draft of the open conversation. */
function useDraft(text: string): void {
  const aui = useAui();
  const id = useChat((state) => state.currentId);
  const shown = useRef<string | null | undefined>(undefined);
  useEffect(() => {
    if (shown.current === id) keepDraft(id, text);
    else {
      shown.current = id;
      aui.composer.setText(draftOf(id));
    }
  }, [aui, id, text]);
}

/** Inserts text like typing, so that undo works and React notices. */
function insert(input: HTMLTextAreaElement, text: string): void {
  input.setRangeText(text, input.selectionStart, input.selectionEnd, "end");
  input.dispatchEvent(new Event("input", { bubbles: true }));
}
