/** The input for questions. */

import { ComposerPrimitive, useAui, useAuiState } from "@assistant-ui/react";
import { ArrowUp, Columns2, BookOpenText, Paperclip, Square } from "lucide-react";
import { useEffect, useState, type ClipboardEvent } from "react";
import { MAX_QUESTION_CHARS } from "../api/wire";
import { useCatalog } from "../api/catalog";
import { useSettings } from "../settings/settings";
import { clean, isBinary, refusal } from "../text/clean";
import { codePoints } from "../text/codepoints";
import { count, plural } from "../text/format";
import { openDocuments } from "../ui/panels";
import { FailureNote } from "./failure";
import { focusQuestion } from "../ui/shortcuts";
import { isAnswering, stop, useChat } from "./store";

const DRAFT_KEY = "kserve-rag.draft";
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
    if (returned && !aui.composer.getState().text.trim()) aui.composer.setText(returned.question);
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

  return (
    <div className="composer-area">
      {returned && <FailureNote failure={returned.failure} />}
      <ComposerPrimitive.Root className="composer" aria-label="Question">
        <label className="sr-only" htmlFor="question">
          Question
        </label>
        <ComposerPrimitive.Input
          id="question"
          className="composer-input"
          placeholder="Ask a question"
          maxRows={10}
          submitMode={tooLong ? "none" : "enter"}
          aria-describedby="question-note"
          aria-invalid={tooLong !== null}
          onPaste={onPaste}
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

/** Keeps the draft over a reload, in this tab. */
function useDraft(text: string): void {
  const aui = useAui();
  useEffect(() => {
    const draft = sessionStorage.getItem(DRAFT_KEY);
    if (draft) aui.composer.setText(draft);
  }, [aui]);
  useEffect(() => {
    try {
      if (text) sessionStorage.setItem(DRAFT_KEY, text);
      else sessionStorage.removeItem(DRAFT_KEY);
    } catch {
      // Larger than the browser's quota.
    }
  }, [text]);
}

/** Inserts text like typing, so that undo works and React notices. */
function insert(input: HTMLTextAreaElement, text: string): void {
  input.setRangeText(text, input.selectionStart, input.selectionEnd, "end");
  input.dispatchEvent(new Event("input", { bubbles: true }));
}
