/** Formats numbers, times and sizes for people. */

const NUMBER = new Intl.NumberFormat("en-GB");

export const count = (value: number) => NUMBER.format(value);

export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** 0.4 ms, 12 ms, 340 ms, 1.2 s, 2 min 5 s. */
export function duration(ms: number): string {
  if (ms < 10) return `${(Math.round(ms * 10) / 10).toString()} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** 512 B, 1.5 kB, 20 MB: powers of a thousand. */
export function bytes(size: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = size;
  let unit = 0;
  for (; value >= 999.5 && unit < units.length - 1; unit++) value /= 1000;
  return `${unit > 0 && value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[unit] ?? ""}`;
}

/** 20 Nov, 14:05. */
export function when(time: number): string {
  return new Date(time).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

/** The first line of a text, no longer than `most`, cut between words where it can be. */
export function headline(text: string, most = 60): string {
  const line = text.trim().split("\n", 1)[0]?.replace(/\s+/g, " ").trim() ?? "";
  const points = Array.from(line.slice(0, most * 2));
  if (points.length <= most) return line.length > most * 2 ? points.join("") + "…" : line;
  const cut = points.slice(0, most - 1).join("");
  const space = cut.lastIndexOf(" ");
  return (space > most / 2 ? cut.slice(0, space) : cut).trimEnd() + "…";
}
