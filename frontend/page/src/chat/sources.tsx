/** The sources of an answer as cards that open the passage in its document. */

import { memo, useState } from "react";
import type { Source } from "../api/wire";

const SHOWN = 3;

export const Sources = memo(function Sources({
  sources,
  compact,
  onOpen,
}: {
  sources: readonly Source[];
  /** Show only titles, for small spaces. */
  compact: boolean;
  onOpen: (number: number) => void;
}) {
  const [all, setAll] = useState(false);
  if (sources.length === 0) return null;
  const shown = all || sources.length === SHOWN + 1 ? sources : sources.slice(0, SHOWN);
  return (
    <div className={compact ? "sources compact" : "sources"}>
      <ul aria-label="Sources">
        {shown.map((source) => (
          <li key={source.number}>
            <SourceCard source={source} onOpen={onOpen} />
          </li>
        ))}
      </ul>
      {shown.length < sources.length && (
        <button type="button" className="link" onClick={() => setAll(true)}>
          {sources.length - shown.length} more sources
        </button>
      )}
    </div>
  );
});

function SourceCard({ source, onOpen }: { source: Source; onOpen: (number: number) => void }) {
  const title = source.title || source.source || source.document_id;
  const path = source.heading_path.filter((heading) => heading !== title).join(" › ");
  const share = Math.round(Math.min(Math.max(source.score, 0), 1) * 100);
  return (
    <button type="button" className="source-card" onClick={() => onOpen(source.number)} title={source.source}>
      <span className="source-head">
        <span className="source-number">
          <span className="sr-only">Source </span>
          {source.number}
        </span>
        <span className="source-title" dir="auto">
          {title}
        </span>
      </span>
      <span className="source-path" dir="auto">
        {path || source.source}
      </span>
      <span className="source-score">
        <svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden>
          <rect width="100" height="4" rx="2" className="bar-ground" />
          <rect width={share} height="4" rx="2" className="bar" />
        </svg>
        <span aria-hidden>{source.score.toFixed(2)}</span>
        <span className="sr-only">Score {source.score.toFixed(2)} of 1</span>
      </span>
    </button>
  );
}
