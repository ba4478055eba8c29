/**
 * A Markdown text in parts that can be rendered one by one: while an answer is written, only the last one changes.
 *
 * Parts end at blank lines, but for fenced code and for what is indented, which belongs to what is above it.
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
