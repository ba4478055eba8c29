/** Shows a stored document at the passage of a source. */

import { ChevronLeft, ChevronRight, ExternalLink } from "lucide-react";
import { lazy, memo, Suspense, useEffect, useLayoutEffect, useMemo, useRef, useState, type ReactNode } from "react";
import { ApiError, unreachable, type Failure } from "../api/http";
import { document as storedDocument } from "../api/transformer";
import type { Source, StoredDocument } from "../api/wire";
import { FailureNote } from "../chat/failure";
import { safeUrl } from "../text/urls";
import { codePoints, toUnits } from "../text/codepoints";
import { count } from "../text/format";
import { blocks, type Block, type Mark, type Piece } from "../text/highlight";
import { isMarkdown, layout } from "../text/layout";
import { Boundary } from "../ui/boundary";
import type { Browsing, Reading } from "../ui/panels";
import { Sheet } from "../ui/sheet";

const Rendered = lazy(() => import("./rendered"));

/** A longer document is shown as plain text, because a browser takes too long to render it. */
const MOST_RENDERED = 200_000;

export interface ReaderProps {
  reading: Reading | null;
  browsing: Browsing | null;
  onClose: () => void;
}

interface Wanted {
  id: string;
  collection?: string | undefined;
  version?: string | undefined;
}

export default function Reader({ reading, browsing, onClose }: ReaderProps) {
  const [number, setNumber] = useState(reading?.number ?? 0);
  const source = reading?.sources.find((one) => one.number === number);
  const wanted = useMemo<Wanted>(
    () =>
      source
        ? { id: source.document_id, collection: source.collection, version: source.index_version }
        : { id: browsing?.documentId ?? "" },
    [source, browsing],
  );
  const { document, failure, retry } = useDocument(wanted);
  const title = document?.title || source?.title || browsing?.title || document?.source || "Document";
  const path = source?.heading_path.filter((heading) => heading !== title).join(" › ") ?? "";
  const address = safeUrl(document?.url ?? source?.url ?? "");

  const sources = reading?.sources ?? [];
  const at = sources.findIndex((one) => one.number === number);
  const step = (by: number) => {
    const next = sources[at + by];
    if (next) setNumber(next.number);
  };
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });

  return (
    <Sheet
      title={title}
      wide
      className="reader"
      onClose={onClose}
      aside={
        address && (
          <a
            className="icon-button"
            href={address}
            target="_blank"
            rel="noopener noreferrer nofollow"
            aria-label="Open the original"
            title="Open the original"
          >
            <ExternalLink aria-hidden />
          </a>
        )
      }
      head={
        <div className="reader-head">
          <p className="reader-path">
            {path || document?.source || source?.source}
            {document && <span> · {count(codePoints(document.text))} characters</span>}
          </p>
          {sources.length > 1 && (
            <div className="reader-sources" role="group" aria-label="Sources of this answer">
              <button
                type="button"
                className="icon-button"
                onClick={() => step(-1)}
                disabled={at <= 0}
                aria-label="Previous source"
                title="Previous source (←)"
              >
                <ChevronLeft aria-hidden />
              </button>
              <span aria-live="polite">
                Source {number} of {sources.length}
              </span>
              <button
                type="button"
                className="icon-button"
                onClick={() => step(1)}
                disabled={at >= sources.length - 1}
                aria-label="Next source"
                title="Next source (→)"
              >
                <ChevronRight aria-hidden />
              </button>
            </div>
          )}
        </div>
      }
    >
      {failure && (
        <>
          <FailureNote failure={failure} onRetry={retry} retryLabel="Try again" />
          {source && (
            <>
              <p className="note">The document no longer exists. This is the passage that the answer used:</p>
              <p className="document-text" dir="auto">
                <mark>{source.text}</mark>
              </p>
            </>
          )}
        </>
      )}
      {!failure && !document && <Skeleton />}
      {document && <Text document={document} reading={reading} browsing={browsing} source={source} />}
    </Sheet>
  );
}

function Text({
  document,
  reading,
  browsing,
  source,
}: {
  document: StoredDocument;
  reading: Reading | null;
  browsing: Browsing | null;
  source: Source | undefined;
}) {
  const collection = source?.collection;
  const marks = useMemo(() => marksIn(document, reading, collection), [document, reading, collection]);
  const number = source?.number ?? 0;
  const heading = browsing?.heading ?? "";
  const plain = <PlainText document={document} marks={marks} number={number} heading={heading} />;
  if (!isMarkdown(document.source) || document.text.length > MOST_RENDERED) return plain;
  const wrapped = /\.(md|markdown)$/i.test(document.source);
  return (
    <Boundary otherwise={plain}>
      <Suspense fallback={<Skeleton />}>
        <Settled
          className={`document-text rendered prose${wrapped ? "" : " lines"}`}
          target={(element) => markOf(element, number) ?? headingOf(element, heading)}
          again={[marks, number, heading]}
        >
          <Rendered source={document.text} marks={marks} number={number} />
        </Settled>
      </Suspense>
    </Boundary>
  );
}

function PlainText({
  document,
  marks,
  number,
  heading,
}: {
  document: StoredDocument;
  marks: readonly Mark[];
  number: number;
  heading: string;
}) {
  const found = useMemo(() => blocks(document.text, marks, layout(document.text, document.source)), [document, marks]);
  const headed = (element: Element) => (heading ? blockOf(element, found, document.text.indexOf(heading)) : null);
  return (
    <Settled
      className="document-text"
      target={(element) => markOf(element, number) ?? headed(element)}
      again={[found, number, heading]}
    >
      {found.map((block) => (
        <BlockView key={block.start} block={block} number={block.marked ? number : 0} />
      ))}
    </Settled>
  );
}

/** The document's text, scrolled to a target whenever one of `again` changes. */
function Settled({
  className,
  target,
  again,
  children,
}: {
  className: string;
  target: (root: Element) => Element | null;
  again: readonly unknown[];
  children: ReactNode;
}) {
  const root = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const found = root.current && target(root.current);
    const frame = root.current?.closest(".sheet-body");
    return found && frame ? settleAt(found, frame) : undefined;
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the target is a function of these
  }, again);
  return (
    <div className={className} ref={root} data-testid="document" dir="auto">
      {children}
    </div>
  );
}

function markOf(root: Element, number: number): Element | null {
  if (!number) return null;
  return (
    root.querySelector(`mark.quote[data-number="${number}"]`) ?? root.querySelector(`mark[data-number="${number}"]`)
  );
}

function headingOf(root: Element, heading: string): Element | null {
  return [...root.querySelectorAll("h3, h4, h5, h6")].find(({ textContent }) => textContent.trim() === heading) ?? null;
}

const BlockView = memo(function BlockView({ block, number }: { block: Block; number: number }) {
  return (
    <div className="block">
      {block.pieces.map((piece, index) => (
        <PieceView key={index} piece={piece} number={number} />
      ))}
    </div>
  );
});

function PieceView({ piece, number }: { piece: Piece; number: number }) {
  const text = piece.look ? <span className={piece.look}>{piece.text}</span> : piece.text;
  if (piece.passage === null) return text;
  return (
    <mark
      data-number={piece.passage}
      className={`${piece.quote ? "quote" : "passage"} ${piece.passage === number ? "active" : "other"}`}
    >
      {piece.first && <span className="sr-only">Source {piece.passage}: </span>}
      {text}
    </mark>
  );
}

const FRAMES_TO_SETTLE = 30;

/**
 * Scrolls `frame` to an element, and repeats until it stays: lazily rendered blocks change their height on the way.
 */
function settleAt(target: Element, frame: Element): () => void {
  let left = FRAMES_TO_SETTLE;
  let still = 0;
  let request = 0;
  const meet = () => {
    const above = target.getBoundingClientRect().top - frame.getBoundingClientRect().top - frame.clientHeight / 4;
    const before = frame.scrollTop;
    frame.scrollBy({ top: above, behavior: "instant" });
    still = Math.abs(frame.scrollTop - before) < 1 ? still + 1 : 0;
    if (still < 4 && left-- > 0) request = requestAnimationFrame(meet);
  };
  const leave = () => {
    left = 0;
  };
  frame.addEventListener("wheel", leave, { once: true, passive: true });
  frame.addEventListener("touchmove", leave, { once: true, passive: true });
  meet();
  return () => {
    cancelAnimationFrame(request);
    frame.removeEventListener("wheel", leave);
    frame.removeEventListener("touchmove", leave);
  };
}

function blockOf(root: Element, found: readonly Block[], unit: number): Element | null {
  const index = found.findIndex(({ start, end }) => start <= unit && unit < end);
  return root.children.item(index);
}

/**
 * The answer's passages and quotes in this document, in UTF-16 units. Compares the index too: another index may have a
 * document of the same id.
 */
function marksIn(document: StoredDocument, reading: Reading | null, collection: string | undefined): Mark[] {
  if (!reading) return [];
  const passages = reading.sources.filter((one) => one.document_id === document.id && one.collection === collection);
  const quotes = (reading.citations?.statements ?? [])
    .flatMap((statement) => statement.quotes)
    .filter((quote) => passages.some(({ number }) => number === quote.number));
  const units = toUnits(
    document.text,
    [...passages, ...quotes].map(({ span }) => span),
  );
  return [...passages, ...quotes].map(({ number }, index) => ({
    ...(units[index] ?? { start: 0, end: 0 }),
    number,
    kind: index < passages.length ? "passage" : "quote",
  }));
}

function useDocument(wanted: Wanted) {
  const [attempt, setAttempt] = useState(0);
  const [state, setState] = useState<{
    wanted: Wanted | null;
    document: StoredDocument | null;
    failure: Failure | null;
  }>({ wanted: null, document: null, failure: null });
  const { id, collection, version } = wanted;
  useEffect(() => {
    const controller = new AbortController();
    storedDocument(id, { collection, version }, controller.signal).then(
      (document) => setState({ wanted, document, failure: null }),
      (error: unknown) => {
        if (controller.signal.aborted) return;
        const failure = error instanceof ApiError ? error.failure : unreachable();
        setState({ wanted, document: null, failure });
      },
    );
    return () => controller.abort();
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the document, not the passage in it, is asked for
  }, [id, collection, version, attempt]);
  const same =
    state.wanted?.id === id && state.wanted.collection === collection && state.wanted.version === version
      ? state
      : null;
  return {
    document: same?.document ?? null,
    failure: same?.failure ?? null,
    retry: () => setAttempt((before) => before + 1),
  };
}

function Skeleton() {
  return (
    <div className="skeleton" role="status">
      <span className="sr-only">Loading the document.</span>
      <i />
      <i />
      <i />
      <i />
      <i />
    </div>
  );
}
