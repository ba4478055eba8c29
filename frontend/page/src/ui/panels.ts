/** The panel that is open over the conversation. */

import { create } from "zustand";
import type { Citations, Source } from "../api/wire";

/** The sources of one answer, and the one that is open. */
export interface Reading {
  sources: readonly Source[];
  citations: Citations | null;
  number: number;
}

/** A document without a passage, for example of a topic. */
export interface Browsing {
  documentId: string;
  title: string;
  /** Heading to scroll to; empty for the beginning. */
  heading: string;
}

interface Panels {
  panel: "documents" | "settings" | "shortcuts" | null;
  reading: Reading | null;
  browsing: Browsing | null;
  /** The list of conversations, on narrow screens. */
  sidebar: boolean;
  /** Files dropped on the page, waiting for upload. */
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
