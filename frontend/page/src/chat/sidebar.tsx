/** The sidebar: conversations, documents, settings. */

import { FileText, Keyboard, Monitor, Moon, Settings2, SquarePen, Sun, Trash2, X } from "lucide-react";
import { useCatalog } from "../api/catalog";
import { changed, useSettings } from "../settings/settings";
import { when } from "../text/format";
import { Brand } from "../ui/brand";
import { openPanel, setSidebar, usePanels } from "../ui/panels";
import { focusQuestion } from "../ui/shortcuts";
import { setTheme, useTheme, type Theme } from "../ui/theme";
import { newConversation, openConversation, removeConversation, useChat } from "./store";
import type { ConversationSummary } from "./turns";

export function Sidebar() {
  const open = usePanels((state) => state.sidebar);
  const title = useCatalog((state) => state.config?.title) ?? "kserve-rag";
  const uploads = useCatalog((state) => state.config?.ingest) ?? false;
  const adjusted = useSettings((state) => changed(state.settings));
  return (
    <>
      {open && (
        // For pointers; the keyboard uses Escape.
        // eslint-disable-next-line jsx-a11y/click-events-have-key-events, jsx-a11y/no-static-element-interactions
        <div className="sidebar-shade" onClick={() => setSidebar(false)} />
      )}
      <nav className={open ? "sidebar open" : "sidebar"} aria-label="Conversations and settings">
        <div className="sidebar-brand">
          <Brand />
          <span className="brand-name">{title}</span>
          <button
            type="button"
            className="icon-button sidebar-close"
            onClick={() => setSidebar(false)}
            aria-label="Close the list of conversations"
          >
            <X aria-hidden />
          </button>
        </div>
        <button
          type="button"
          className="sidebar-new"
          onClick={() => {
            setSidebar(false);
            void newConversation().then(focusQuestion);
          }}
        >
          <SquarePen aria-hidden /> New conversation
        </button>
        <Conversations />
        <div className="sidebar-foot">
          {uploads && (
            <button type="button" className="sidebar-item" onClick={() => openPanel("documents")}>
              <FileText aria-hidden /> Documents
            </button>
          )}
          <button type="button" className="sidebar-item" onClick={() => openPanel("settings")}>
            <Settings2 aria-hidden /> Settings
            {adjusted > 0 && (
              <span className="count" title={`${adjusted} changed`}>
                {adjusted}
                <span className="sr-only"> changed</span>
              </span>
            )}
          </button>
          <button type="button" className="sidebar-item" onClick={() => openPanel("shortcuts")}>
            <Keyboard aria-hidden /> Keyboard
          </button>
          <ThemeChoice />
        </div>
      </nav>
    </>
  );
}

function Conversations() {
  const conversations = useChat((state) => state.conversations);
  const currentId = useChat((state) => state.currentId);
  const forgetful = useChat((state) => state.forgetful);
  return (
    <div className="conversations">
      {forgetful && (
        <p className="sidebar-note">This browser stores nothing: conversations are lost when the page closes.</p>
      )}
      {conversations.length > 0 && <h2 className="sidebar-heading">Earlier</h2>}
      <ul>
        {conversations.map((one) => (
          <ConversationItem key={one.id} conversation={one} current={one.id === currentId} />
        ))}
      </ul>
    </div>
  );
}

function ConversationItem({ conversation, current }: { conversation: ConversationSummary; current: boolean }) {
  return (
    <li className={current ? "conversation current" : "conversation"}>
      <button
        type="button"
        className="conversation-open"
        aria-current={current ? "page" : undefined}
        title={`${conversation.title} · ${when(conversation.updatedAt)}`}
        onClick={() => {
          setSidebar(false);
          void openConversation(conversation.id);
        }}
      >
        {conversation.title}
      </button>
      <button
        type="button"
        className="icon-button conversation-remove"
        aria-label={`Delete the conversation “${conversation.title}”`}
        title="Delete"
        onClick={() => void removeConversation(conversation.id)}
      >
        <Trash2 aria-hidden />
      </button>
    </li>
  );
}

const THEMES: { theme: Theme; label: string; Icon: typeof Sun }[] = [
  { theme: "system", label: "System", Icon: Monitor },
  { theme: "light", label: "Light", Icon: Sun },
  { theme: "dark", label: "Dark", Icon: Moon },
];

function ThemeChoice() {
  const chosen = useTheme((state) => state.theme);
  return (
    <div className="theme-choice" role="radiogroup" aria-label="Colours">
      {THEMES.map(({ theme, label, Icon }) => (
        <label key={theme} title={label} className={theme === chosen ? "chosen" : undefined}>
          <input
            type="radio"
            name="theme"
            className="sr-only"
            checked={theme === chosen}
            onChange={() => setTheme(theme)}
          />
          <Icon aria-hidden />
          <span className="sr-only">{label}</span>
        </label>
      ))}
    </div>
  );
}
