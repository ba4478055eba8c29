/** An answer's Markdown. HTML is shown as text, only http(s) and mailto links work, images are not loaded. */

import { memo, useMemo, type ComponentProps } from "react";
import Markdown, { type Components } from "react-markdown";
import type { Citations, Source } from "../api/wire";
import { COMPONENTS, directions, REMARK } from "../markdown/components";
import { toUnits } from "../text/codepoints";
import { paragraphs } from "../text/paragraphs";
import { safeUrl } from "../text/urls";
import { cited, type CitedOptions, type CitedStatement } from "./cited";

export interface ProseProps {
  text: string;
  sources: readonly Source[];
  citations: Citations | null;
  /** While streaming, paragraphs are rendered separately. */
  running: boolean;
  onCite: (number: number) => void;
}

export default function Prose({ text, sources, citations, running, onCite }: ProseProps) {
  const numbers = useMemo(() => new Set(sources.map(({ number }) => number)), [sources]);
  const statements = useMemo(() => (citations?.text === text ? statementsOf(citations) : NONE), [citations, text]);
  const components = useMemo(() => componentsFor(sources, onCite), [sources, onCite]);
  const parts = running ? paragraphs(text) : [text];
  return parts.map((part, index) => (
    <Part key={index} text={part} statements={statements} numbers={numbers} components={components} />
  ));
}

const NONE: readonly CitedStatement[] = [];

interface PartProps {
  text: string;
  statements: CitedOptions["statements"];
  numbers: CitedOptions["numbers"];
  components: Components;
}

const Part = memo(function Part({ text, statements, numbers, components }: PartProps) {
  const plugins: ComponentProps<typeof Markdown>["rehypePlugins"] = [
    [cited, { source: text, statements, numbers } satisfies CitedOptions],
    directions,
  ];
  return (
    <Markdown remarkPlugins={REMARK} rehypePlugins={plugins} urlTransform={safeUrl} components={components}>
      {text}
    </Markdown>
  );
});

function statementsOf(citations: Citations): CitedStatement[] {
  const spans = toUnits(
    citations.text,
    citations.statements.map(({ span }) => span),
  );
  return citations.statements.map((statement, index) => {
    const span = spans[index] ?? { start: 0, end: 0 };
    const named = /\[\d{1,3}\]/.test(citations.text.slice(span.start, span.end));
    return {
      ...span,
      unsupported: statement.verdict === "unsupported",
      number: named ? null : (statement.quotes[0]?.number ?? null),
    };
  });
}

function componentsFor(sources: readonly Source[], onCite: (number: number) => void): Components {
  return {
    ...COMPONENTS,
    span: ({ node, children }) => {
      const number = Number(node?.properties["dataCite"]);
      if (number) return <Cite number={number} source={sources.find((one) => one.number === number)} onCite={onCite} />;
      const unsupported = node?.properties["dataUnsupported"];
      if (!unsupported) return <span>{children}</span>;
      return (
        <span className="unsupported" title="Not backed by any source">
          {children}
          {unsupported === "last" && <span className="sr-only"> (not backed by any source)</span>}
        </span>
      );
    },
  };
}

function Cite({
  number,
  source,
  onCite,
}: {
  number: number;
  source: Source | undefined;
  onCite: (number: number) => void;
}) {
  const title = source?.title || source?.source || "";
  return (
    <button type="button" className="cite" onClick={() => onCite(number)} title={title}>
      <span className="sr-only">Source </span>
      {number}
    </button>
  );
}
