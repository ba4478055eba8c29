/**
 * Splits Markdown into parts that can be rendered separately: while an answer streams, only the last part changes.
 *
 * Parts end at blank lines, except in fenced code and before indented lines.
 */
export function paragraphs(markdown: string): string[] {
  const parts: string[] = [];
  let part: string[] = [];
  let fence = "";
  let blank = false;
  for (const line of markdown.split("\n")) {
    const mark = /^ {0,3}(`{3,}|~{3,})/.exec(line)?.[1] ?? "";
    if (!fence && blank && part.length > 0 && line.trim() && !/^(\s{2,}|\t|[-*+] |\d+[.)] )/.test(line)) {
      parts.push(part.join("\n"));
      part = [];
    }
    if (!fence && mark) fence = mark;
    else if (fence && mark.startsWith(fence)) fence = "";
    blank = !line.trim();
    part.push(line);
  }
  if (part.length > 0) parts.push(part.join("\n"));
  return parts;
}
