/** Saves a text as a file of the browser's downloads. */
export function download(name: string, text: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: "text/markdown" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name.replace(/[/\\:*?"<>|]+/g, " ").trim();
  link.click();
  URL.revokeObjectURL(address);
}
