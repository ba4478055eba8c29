/** The address if it is of the web or of mail; nothing otherwise: no script ever hides in a link. */
export function safeUrl(url: string): string {
  return /^(https?:\/\/|mailto:)/i.test(url.trim()) ? url.trim() : "";
}
