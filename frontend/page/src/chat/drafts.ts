/** Unsent questions, one per conversation, kept over a reload in this tab. */

const key = (id: string | null) => `kserve-rag.draft.${id ?? "new"}`;

export function draftOf(id: string | null): string {
  return sessionStorage.getItem(key(id)) ?? "";
}

export function keepDraft(id: string | null, text: string): void {
  try {
    if (text) sessionStorage.setItem(key(id), text);
    else sessionStorage.removeItem(key(id));
  } catch {
    // Larger than the browser's quota.
  }
}
