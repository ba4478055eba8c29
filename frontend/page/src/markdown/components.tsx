/** How the elements of Markdown are shown, in answers and documents. Only http(s) and mailto links work; no pictures. */

import type { Element, ElementContent } from "hast";
import type { ComponentProps } from "react";
import type Markdown from "react-markdown";
import type { Components } from "react-markdown";
import remarkGfm from "remark-gfm";
import { safeUrl } from "../text/urls";
import { CopyButton } from "../ui/copy-button";

export const REMARK: ComponentProps<typeof Markdown>["remarkPlugins"] = [[remarkGfm, { singleTilde: false }]];

/** Blocks that may be in a language of their own, and so have a direction of their own. */
const BLOCKS = new Set(["p", "li", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "td", "th", "ul", "ol", "table"]);

/** A rehype plugin: each block has the direction of its first letter. */
export function directions() {
  const visit = (node: { type: string; children?: unknown[] }): void => {
    const element = node as Element;
    if (node.type === "element" && BLOCKS.has(element.tagName)) element.properties["dir"] = "auto";
    for (const child of node.children ?? []) visit(child as Element);
  };
  return visit;
}

export const COMPONENTS: Components = {
  a: ({ href, children }) => (href ? <Link address={href}>{children}</Link> : <span>{children}</span>),
  img: ({ alt, src }) => {
    const address = typeof src === "string" ? safeUrl(src) : "";
    const name = alt || "picture";
    return address ? <Link address={address}>{name}</Link> : <span>{name}</span>;
  },
  pre: ({ node, children }) => <Code node={node}>{children}</Code>,
  // Wide content scrolls, also with the keyboard.
  table: ({ children, dir }) => (
    // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
    <div className="table" role="region" aria-label="Table" tabIndex={0}>
      <table dir={dir}>{children}</table>
    </div>
  ),
  input: ({ checked }) => <input type="checkbox" checked={checked} disabled aria-label={checked ? "Done" : "To do"} />,
};

function Link({ address, children }: { address: string; children: React.ReactNode }) {
  return (
    <a href={address} target="_blank" rel="noopener noreferrer nofollow">
      {children}
    </a>
  );
}

function Code({ node, children }: { node: Element | undefined; children: React.ReactNode }) {
  const code = node?.children.find((child) => child.type === "element");
  const classes = code?.properties["className"];
  const named = (Array.isArray(classes) ? classes : []).map(String).find((name) => name.startsWith("language-"));
  return (
    <div className="code">
      <div className="code-head">
        <span>{named?.slice("language-".length) ?? ""}</span>
        <CopyButton label="Copy the code" title="Copy" text={() => textOf(node?.children ?? [])} />
      </div>
      {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
      <pre tabIndex={0} dir="ltr">
        {children}
      </pre>
    </div>
  );
}

function textOf(nodes: readonly ElementContent[]): string {
  return nodes
    .map((node) => (node.type === "text" ? node.value : node.type === "element" ? textOf(node.children) : ""))
    .join("")
    .replace(/\n$/, "");
}
