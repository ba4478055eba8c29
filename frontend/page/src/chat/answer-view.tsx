/** One answer: sources, text, check, timing and actions. */

import { Ban, BookOpenText, CircleSlash, Quote as QuoteSign, RotateCw, Sparkles } from "lucide-react";
import { lazy, memo, Suspense, useCallback, useMemo } from "react";
import type { Withheld } from "../api/wire";
import { plural } from "../text/format";
import { Boundary } from "../ui/boundary";
import { CopyButton } from "../ui/copy-button";
import { openReader } from "../ui/panels";
import { isRunning, type Answer } from "./answer";
import { FailureNote } from "./failure";
import { Hops } from "./hops";
import { Refusal } from "./refusal";
import { Sources } from "./sources";
import { withSources } from "./exported";
import { askAgain } from "./store";

const Prose = lazy(() => import("./prose"));

export interface AnswerViewProps {
  turnId: string;
  answer: Answer;
  compared: boolean;
  /** The last answer of the conversation: only this one can be regenerated without dropping others. */
  last: boolean;
}

export const AnswerView = memo(function AnswerView({ turnId, answer, compared, last }: AnswerViewProps) {
  const running = isRunning(answer);
  const { sources, citations } = answer;
  const onCite = useCallback((number: number) => openReader({ sources, citations, number }), [sources, citations]);
  const again = () => askAgain(turnId);
  return (
    <section className="answer-view" aria-busy={running} data-status={answer.status}>
      <h3 className={compared ? "answer-kind" : "sr-only"}>
        {answer.grounded ? <BookOpenText aria-hidden /> : <Sparkles aria-hidden />}
        {answer.grounded ? (compared ? "With your documents" : "Answer") : "Without documents"}
      </h3>
      {!compared && !answer.grounded && (
        <p className="answer-kind">
          <Sparkles aria-hidden /> From the model alone, without documents
        </p>
      )}
      <Sources sources={sources} compact={compared} onOpen={onCite} />
      {answer.refused ? <Refusal answer={answer} /> : <Text answer={answer} onCite={onCite} />}
      {running && answer.text === "" && (
        <p className="thinking">
          {answer.status === "asked" && answer.grounded ? "Searching the documents" : "Reading"}
          <span className="dots" aria-hidden>
            <i />
            <i />
            <i />
          </span>
        </p>
      )}
      <Ending answer={answer} onAgain={last ? again : undefined} />
      {answer.failure && <FailureNote failure={answer.failure} {...(last ? { onRetry: again } : {})} />}
      <footer className="answer-foot">
        {!running && answer.text !== "" && (
          <CopyButton label="Copy the answer" title="Copy, with its sources" text={() => withSources(answer)} />
        )}
        {!running && last && !answer.failure && (!compared || !answer.grounded) && (
          <button type="button" className="icon-button" onClick={again} aria-label="Ask again" title="Ask again">
            <RotateCw aria-hidden />
          </button>
        )}
        <Hops answer={answer} />
      </footer>
    </section>
  );
});

const WITHHELD: Record<Withheld["reason"], string> = {
  unsupported: "not backed by any source",
  no_claim: "leads to nothing that is shown",
  repetition: "a repetition",
};

function Text({ answer, onCite }: { answer: Answer; onCite: (number: number) => void }) {
  const unsupported = useMemo(
    () => answer.citations?.statements.filter(({ verdict }) => verdict === "unsupported").length ?? 0,
    [answer.citations],
  );
  if (answer.text === "") return null;
  const quoted = answer.citations?.kind === "quote";
  // Answers archived by earlier versions have none.
  const withheld = answer.citations?.withheld ?? [];
  const plain = (
    <p className="plain" dir="auto">
      {answer.text}
    </p>
  );
  const prose = (
    <Boundary otherwise={plain}>
      <Suspense fallback={plain}>
        <Prose
          text={answer.text}
          sources={answer.sources}
          citations={answer.citations}
          running={isRunning(answer)}
          onCite={onCite}
        />
      </Suspense>
    </Boundary>
  );
  return (
    <>
      {quoted ? (
        <figure className="quoted">
          <blockquote className="prose">{prose}</blockquote>
          <figcaption>
            <QuoteSign aria-hidden /> Quoted from the documents.
          </figcaption>
        </figure>
      ) : (
        <div className="prose">{prose}</div>
      )}
      {unsupported > 0 && (
        <p className="legend">
          <span className="unsupported" aria-hidden>
            Dotted
          </span>
          : not backed by any source.
        </p>
      )}
      {withheld.length > 0 && (
        <details className="legend">
          <summary>{plural(withheld.length, "sentence")} of the model left out</summary>
          <ul>
            {withheld.map(({ text, reason }, index) => (
              <li key={index}>
                <span dir="auto">{text}</span> <em>({WITHHELD[reason]})</em>
              </li>
            ))}
          </ul>
        </details>
      )}
    </>
  );
}

function Ending({ answer, onAgain }: { answer: Answer; onAgain: (() => void) | undefined }) {
  const again = onAgain && (
    <button type="button" className="link" onClick={onAgain}>
      Ask again
    </button>
  );
  if (answer.status === "stopped") {
    return (
      <p className="ending">
        <CircleSlash aria-hidden /> Stopped. {again}
      </p>
    );
  }
  if (answer.status === "interrupted") {
    return (
      <p className="ending">
        <Ban aria-hidden /> Interrupted: the connection was lost or the page was closed.
        {answer.text !== "" && " What was written is kept."} {again}
      </p>
    );
  }
  if (answer.finishReason === "length") {
    return <p className="ending">Stopped at the longest answer that the settings allow.</p>;
  }
  if (answer.finishReason === "repetition") {
    return <p className="ending">Stopped because the model began to repeat itself.</p>;
  }
  return null;
}
