/** The sidebar: conversations, documents, settings. */

import {
  Download,
  FileText,
  Keyboard,
  Monitor,
  Moon,
  Pencil,
  Settings2,
  SquarePen,
  Sun,
  Trash2,
  X,
} from "lucide-react";
import { useEffect, useState } from "react";
import { useCatalog } from "../api/catalog";
import { changed, useSettings } from "../settings/settings";
import { when } from "../text/format";
import { Brand } from "../ui/brand";
import { download } from "../ui/download";
import { openPanel, setSidebar, usePanels } from "../ui/panels";
import { focusQuestion } from "../ui/shortcuts";
import { setTheme, useTheme, type Theme } from "../ui/theme";
import { search } from "./archive";
import { exported } from "./exported";
import {
  forgetRemoved,
  newConversation,
  openConversation,
  removeConversation,
  renameConversation,
  undoRemove,
  useChat,
  whole,
} from "./store";
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
  const [wanted, setWanted] = useState("");
  const [found, setFound] = useState<ReadonlySet<string> | null>(null);
  useEffect(() => {
    let last = true;
    const text = wanted.trim();
    void (text ? search(text).catch(() => null) : Promise.resolve(null)).then((ids) => last && setFound(ids));
    return () => {
      last = false;
    };
  }, [wanted, conversations]);
  const shown = conversations.filter(({ id, title }) => found?.has(id) ?? matches(title, wanted));
  return (
    <div className="conversations">
      {forgetful && (
        <p className="sidebar-note">This browser stores nothing: conversations are lost when the page closes.</p>
      )}
      {conversations.length > 0 && (
        <>
          <h2 className="sidebar-heading">Conversations</h2>
          <input
            type="search"
            className="conversation-search"
            aria-label="Search conversations"
            placeholder="Search"
            dir="auto"
            value={wanted}
            onChange={(event) => setWanted(event.target.value)}
          />
        </>
      )}
      {wanted.trim() && shown.length === 0 && (
        <p className="sidebar-note" role="status">
          No conversation contains these words.
        </p>
      )}
      <ul>
        {shown.map((one) => (
          <ConversationItem key={one.id} conversation={one} current={one.id === currentId} />
        ))}
      </ul>
    </div>
  );
}

const matches = (title: string, wanted: string) => title.toLowerCase().includes(wanted.trim().toLowerCase());

function ConversationItem({ conversation, current }: { conversation: ConversationSummary; current: boolean }) {
  const { id, title } = conversation;
  const [renaming, setRenaming] = useState(false);
  if (renaming) return <Rename conversation={conversation} onDone={() => setRenaming(false)} />;
  return (
    <li className={current ? "conversation current" : "conversation"}>
      <button
        type="button"
        className="conversation-open"
        aria-current={current ? "page" : undefined}
        title={`${title} · ${when(conversation.updatedAt)}`}
        dir="auto"
        onClick={() => {
          setSidebar(false);
          void openConversation(id);
        }}
      >
        {title}
      </button>
      <span className="conversation-actions">
        <button
          type="button"
          className="icon-button"
          aria-label={`Rename the conversation “${title}”`}
          title="Rename"
          onClick={() => setRenaming(true)}
        >
          <Pencil aria-hidden />
        </button>
        <button
          type="button"
          className="icon-button"
          aria-label={`Export the conversation “${title}”`}
          title="Export as Markdown"
          onClick={() => void whole(id).then((found) => found && download(`${title}.md`, exported(found)))}
        >
          <Download aria-hidden />
        </button>
        <button
          type="button"
          className="icon-button"
          aria-label={`Delete the conversation “${title}”`}
          title="Delete"
          onClick={() => void removeConversation(id)}
        >
          <Trash2 aria-hidden />
        </button>
      </span>
    </li>
  );
}

function Rename({ conversation, onDone }: { conversation: ConversationSummary; onDone: () => void }) {
  const [title, setTitle] = useState(conversation.title);
  const save = () => {
    void renameConversation(conversation.id, title);
    onDone();
  };
  return (
    <li className="conversation">
      <form
        className="conversation-rename"
        onSubmit={(event) => {
          event.preventDefault();
          save();
        }}
      >
        <input
          aria-label="New title"
          dir="auto"
          // It replaces the pressed button, so it takes the focus.
          // eslint-disable-next-line jsx-a11y/no-autofocus
          autoFocus
          value={title}
          maxLength={200}
          onChange={(event) => setTitle(event.target.value)}
          onBlur={save}
          onKeyDown={(event) => {
            if (event.key !== "Escape") return;
            event.stopPropagation();
            onDone();
          }}
        />
      </form>
    </li>
  );
}

/** Offers to bring back the conversation that was deleted last. */
export function Undo() {
  const removed = useChat((state) => state.removed);
  return (
    <div role="status" className="undo-place">
      {removed && (
        <div className="undo">
          <span>
            Deleted: <span dir="auto">{removed.title}</span>
          </span>
          <button type="button" className="link" onClick={() => void undoRemove()}>
            Undo
          </button>
          <button type="button" className="icon-button" onClick={forgetRemoved} aria-label="Dismiss" title="Dismiss">
            <X aria-hidden />
          </button>
        </div>
      )}
    </div>
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
