/** The empty conversation: a greeting and example questions. */

import { ArrowUpRight, CircleAlert } from "lucide-react";
import { useMemo } from "react";
import { refresh, useCatalog } from "../api/catalog";
import { useSettings } from "../settings/settings";
import { plural } from "../text/format";
import { FailureNote } from "./failure";
import { ask, useChat } from "./store";

const MOST_EXAMPLES = 4;

export function Welcome() {
  const { indexes, defaultIndex, reason, failure } = useCatalog();
  const missing = useChat((state) => state.missing);
  const collections = useSettings((state) => state.settings.collections);
  const asked = useMemo(() => {
    const names = collections ?? (defaultIndex === null ? [] : [defaultIndex]);
    return indexes.filter(({ name }) => names.includes(name));
  }, [indexes, defaultIndex, collections]);
  const examples = useMemo(
    () => [...new Set(asked.flatMap((index) => index.examples))].slice(0, MOST_EXAMPLES),
    [asked],
  );
  const documents = asked.reduce((sum, index) => sum + index.documents, 0);
  return (
    <section className="welcome" aria-label="Begin">
      <h2 className="welcome-title">
        Ask your <mark>documents</mark>
      </h2>
      <p className="welcome-hint">
        {documents > 0
          ? `Answers from ${plural(documents, "document")}, each with its sources.`
          : "Answers with their sources."}
      </p>
      {missing && (
        <p className="note">
          <CircleAlert aria-hidden /> The conversation of this address is not here. Each browser keeps its own; a
          deleted one is gone.
        </p>
      )}
      {failure && <FailureNote failure={failure} onRetry={() => void refresh()} retryLabel="Try again" />}
      {!failure && reason && (
        <p className="note">
          <CircleAlert aria-hidden /> {reason}
        </p>
      )}
      {examples.length > 0 && (
        <ul className="examples" aria-label="Example questions">
          {examples.map((example) => (
            <li key={example}>
              <button type="button" onClick={() => ask(example)}>
                <span>{example}</span>
                <ArrowUpRight aria-hidden />
              </button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
