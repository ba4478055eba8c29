/** A stored document as rendered Markdown, with marked passages and quotes. */

import type { ComponentProps } from "react";
import Markdown, { type Components } from "react-markdown";
import { COMPONENTS, directions, REMARK } from "../markdown/components";
import { marked, type MarkedOptions } from "../markdown/marked";
import { safeUrl } from "../text/urls";

export interface RenderedProps extends MarkedOptions {
  /** Number of the source that is open. */
  number: number;
}

export default function Rendered({ source, marks, number }: RenderedProps) {
  const plugins: ComponentProps<typeof Markdown>["rehypePlugins"] = [
    [marked, { source, marks } satisfies MarkedOptions],
    directions,
  ];
  return (
    <Markdown
      remarkPlugins={REMARK}
      rehypePlugins={plugins}
      urlTransform={safeUrl}
      components={{ ...COMPONENTS, ...HEADINGS, mark: markOf(number) }}
    >
      {source}
    </Markdown>
  );
}

/** The document's headings are below the title of the panel, which is a level 2. */
const HEADINGS: Components = {
  h1: ({ children, dir }) => <h3 dir={dir}>{children}</h3>,
  h2: ({ children, dir }) => <h4 dir={dir}>{children}</h4>,
  h3: ({ children, dir }) => <h5 dir={dir}>{children}</h5>,
  h4: ({ children, dir }) => <h6 dir={dir}>{children}</h6>,
  h5: ({ children, dir }) => <h6 dir={dir}>{children}</h6>,
};

function markOf(open: number): NonNullable<Components["mark"]> {
  return function MarkView({ node, children }) {
    const number = Number(node?.properties["dataNumber"]);
    const kind = node?.properties["dataQuote"] ? "quote" : "passage";
    return (
      <mark data-number={number} className={`${kind} ${number === open ? "active" : "other"}`}>
        {Boolean(node?.properties["dataFirst"]) && <span className="sr-only">Source {number}: </span>}
        {children}
      </mark>
    );
  };
}
