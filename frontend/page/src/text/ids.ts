/** A random id. crypto.randomUUID is there only under https and on this machine; a page may be served under neither. */
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
