/** Which panel is open over the conversation. */

import { create } from "zustand";
import type { Citations, Source } from "../api/wire";

/** Sources of one answer, of which one is read. */
export interface Reading {
  sources: readonly Source[];
  citations: Citations | null;
  number: number;
}

/** A document that no passage of is given, as of a topic. */
export interface Browsing {
  documentId: string;
  title: string;
  /** Where in it a reader is taken to; empty for its beginning. */
  heading: string;
}

interface Panels {
  panel: "documents" | "settings" | "shortcuts" | null;
  reading: Reading | null;
  browsing: Browsing | null;
  /** Of conversations, where the page is too narrow to show it always. */
  sidebar: boolean;
  /** Files dropped anywhere on the page, to be uploaded. */
  dropped: readonly File[];
}

export const usePanels = create<Panels>()(() => ({
  panel: null,
  reading: null,
  browsing: null,
  sidebar: false,
  dropped: [],
}));

export const openPanel = (panel: Panels["panel"]) =>
  usePanels.setState({ panel, reading: null, browsing: null, sidebar: false });
export const openDocuments = (dropped: readonly File[]) =>
  usePanels.setState({ panel: "documents", reading: null, browsing: null, dropped });
export const openReader = (reading: Reading) => usePanels.setState({ reading });
export const openDocument = (browsing: Browsing) => usePanels.setState({ browsing });
export const setSidebar = (sidebar: boolean) => usePanels.setState({ sidebar });

export function closePanels(): void {
  usePanels.setState({ panel: null, reading: null, browsing: null, dropped: [] });
}
