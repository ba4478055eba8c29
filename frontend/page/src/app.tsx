/** The page: conversations at the left, the open one in the middle, panels over both. */

import { lazy, Suspense, useEffect } from "react";
import { useCatalog } from "./api/catalog";
import { ChatRuntime } from "./chat/runtime";
import { Sidebar, Undo } from "./chat/sidebar";
import { Thread } from "./chat/thread";
import { DropArea } from "./documents/drop-area";
import { Boundary } from "./ui/boundary";
import { Broken } from "./ui/broken";
import { closePanels, usePanels } from "./ui/panels";
import { Sheet } from "./ui/sheet";
import { useShortcuts } from "./ui/shortcuts";

const Reader = lazy(() => import("./documents/reader"));
const Library = lazy(() => import("./documents/library"));
const SettingsPanel = lazy(() => import("./settings/panel"));
const ShortcutList = lazy(() => import("./ui/shortcut-list"));

export function App() {
  useShortcuts();
  const title = useCatalog((state) => state.config?.title);
  useEffect(() => {
    if (title) document.title = title;
  }, [title]);
  return (
    <ChatRuntime>
      <a className="skip-link" href="#question">
        Skip to the question
      </a>
      <div className="page">
        <Sidebar />
        <Thread />
      </div>
      <Undo />
      <DropArea />
      <Panels />
    </ChatRuntime>
  );
}

function Panels() {
  const { panel, reading, browsing } = usePanels();
  const otherwise = (
    <Sheet title="Not loaded" onClose={closePanels}>
      <Broken />
    </Sheet>
  );
  return (
    <Boundary key={`${panel ?? ""} ${reading || browsing ? "reader" : ""}`} otherwise={otherwise}>
      <Suspense fallback={null}>
        {panel === "documents" && <Library onClose={closePanels} />}
        {panel === "settings" && <SettingsPanel onClose={closePanels} />}
        {panel === "shortcuts" && <ShortcutList onClose={closePanels} />}
        {(reading ?? browsing) && <Reader reading={reading} browsing={browsing} onClose={closePanels} />}
      </Suspense>
    </Boundary>
  );
}
