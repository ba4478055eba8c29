/** Keys that work everywhere on the page. */

import { useEffect } from "react";
import { useCatalog } from "../api/catalog";
import { isAnswering, newConversation, stop, useChat } from "../chat/store";
import { openPanel, setSidebar, usePanels } from "./panels";

export interface Shortcut {
  keys: string[];
  does: string;
  /** Only if documents can be uploaded. */
  uploads?: true;
}

export const SHORTCUTS: Shortcut[] = [
  { keys: ["Enter"], does: "Ask" },
  { keys: ["Shift", "Enter"], does: "New line" },
  { keys: ["Esc"], does: "Stop the answer, or close the open panel" },
  { keys: ["/"], does: "Focus the question" },
  { keys: ["Alt", "N"], does: "New conversation" },
  { keys: ["Alt", "S"], does: "Settings" },
  { keys: ["Alt", "D"], does: "Documents", uploads: true },
  { keys: ["←", "→"], does: "Previous and next source in a document" },
  { keys: ["?"], does: "Show this list" },
];

export function focusQuestion(): void {
  document.getElementById("question")?.focus();
}

export function useShortcuts(): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const { panel, reading, browsing, sidebar } = usePanels.getState();
      if (event.defaultPrevented || event.isComposing || panel || reading || browsing) return;
      if (event.key === "Escape") {
        if (sidebar) setSidebar(false);
        else if (isAnswering(useChat.getState())) stop();
        return;
      }
      if (event.altKey && !event.ctrlKey && !event.metaKey) {
        const act = ALT[event.code];
        if (!act) return;
        event.preventDefault();
        act();
        return;
      }
      if (event.ctrlKey || event.metaKey || isTyping(event.target)) return;
      if (event.key === "/") {
        event.preventDefault();
        focusQuestion();
      } else if (event.key === "?") openPanel("shortcuts");
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}

const ALT: Record<string, () => unknown> = {
  KeyN: () => void newConversation().then(focusQuestion),
  KeyS: () => openPanel("settings"),
  KeyD: () => useCatalog.getState().config?.ingest && openPanel("documents"),
};

function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))
  );
}
