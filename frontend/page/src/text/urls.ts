/** The address if its scheme is http(s) or mailto, else undefined: links never run scripts. */
export function safeUrl(url: string): string {
  return /^(https?:\/\/|mailto:)/i.test(url.trim()) ? url.trim() : "";
}
