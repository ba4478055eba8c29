/** A conversation as a Markdown file. */

import type { Answer } from "./answer";
import type { Conversation } from "./turns";
import { toUnits } from "../text/codepoints";

export function exported({ title, createdAt, turns }: Conversation): string {
  const parts = turns.flatMap(({ question, answers }) => [
    `## ${question.replace(/\s+/g, " ")}`,
    ...answers.map((answer) =>
      answers.length > 1 ? `### ${answer.grounded ? "With" : "Without"} documents\n\n${body(answer)}` : body(answer),
    ),
  ]);
  return [`# ${title}`, new Date(createdAt).toISOString().slice(0, 10), ...parts].join("\n\n") + "\n";
}

const body = (answer: Answer) => (answer.refused ? "The documents do not answer this question." : withSources(answer));

/** The answer as plain text with its source numbers, followed by its sources. */
export function withSources(answer: Answer): string {
  const text = withMarkers(answer);
  if (answer.sources.length === 0) return text;
  const list = answer.sources.map(({ number, title, source, url }) => {
    const name = title || source;
    return `[${number}] ${name}${url ? ` <${url}>` : source && source !== name ? ` (${source})` : ""}`;
  });
  return `${text}\n\n${list.join("\n")}`;
}

/** The page shows the number of the best source after a sentence that names none; a copy has it too. */
function withMarkers({ text, citations, sources }: Answer): string {
  if (citations?.text !== text) return text;
  const spans = toUnits(
    text,
    citations.statements.map(({ span }) => span),
  );
  return citations.statements.reduceRight((marked, { verdict, quotes }, index) => {
    const { start, end } = spans[index] ?? { start: 0, end: 0 };
    const sentence = text.slice(start, end).trimEnd();
    const number = quotes[0]?.number;
    const shown = verdict !== "unsupported" && sources.some((source) => source.number === number);
    if (number === undefined || !shown || /\[\d{1,3}\]/.test(sentence)) return marked;
    const at = start + sentence.length;
    return `${marked.slice(0, at)} [${number}]${marked.slice(at)}`;
  }, text);
}
