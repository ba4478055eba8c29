/** A random id. crypto.randomUUID needs https or localhost, and the page may be served without both. */
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
