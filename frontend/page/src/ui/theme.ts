/** Light or dark theme: the system's or the user's choice. */

import { create } from "zustand";

export type Theme = "system" | "light" | "dark";

const KEY = "kserve-rag.theme";

function kept(): Theme {
  const value = localStorage.getItem(KEY);
  return value === "light" || value === "dark" ? value : "system";
}

export const useTheme = create<{ theme: Theme }>()(() => ({ theme: kept() }));

export function setTheme(theme: Theme): void {
  if (theme === "system") localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, theme);
  useTheme.setState({ theme });
  applyTheme();
}

/** The style sheets read this attribute; without it, they follow the system's preference. */
export function applyTheme(): void {
  const { theme } = useTheme.getState();
  if (theme === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme;
}
