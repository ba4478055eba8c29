/** An error in plain words, with the details that an operator needs. */

import { CircleAlert, KeyRound, RotateCw } from "lucide-react";
import { useEffect, useState } from "react";
import type { Failure } from "../api/http";
import { openPanel } from "../ui/panels";

interface Told {
  title: string;
  text: string;
}

/** A title and advice for an error. */
export function explained(failure: Failure): Told {
  switch (failure.status) {
    case 0:
      return {
        title: "The page cannot reach its server",
        text: "The connection was lost, or the server is not running. Nothing is lost: ask again when it is back.",
      };
    case 400:
    case 422:
      return {
        title: "The question was rejected",
        text: "The service rejected the question or one of the settings.",
      };
    case 401:
      return {
        title: "You are signed out",
        text: "Sign in again, or enter an access token. Your question is kept.",
      };
    case 403:
      return {
        title: "You have no access",
        text: "Sign in with an account that has access, or enter an access token. Your question is kept.",
      };
    case 404:
      return {
        title: "Not found",
        text: "It may have been removed or renamed.",
      };
    case 413:
      return { title: "This is too large", text: "Ask a shorter question, or begin a new conversation." };
    case 429:
      return { title: "Too many questions at once", text: "The model is busy. Try again in a moment." };
    case 502:
      return {
        title: "A part of the service failed",
        text: "The search or the language model gave no usable answer. Trying again often helps.",
      };
    case 503:
      return {
        title: "The service is not ready yet",
        text: "It is starting. Try again in a moment.",
      };
    case 504:
      return {
        title: "That took too long",
        text: "The search or the language model was too slow. Try again, or ask for a shorter answer.",
      };
    default:
      return { title: "Something went wrong", text: "The service could not answer. Trying again often helps." };
  }
}

export function FailureNote({
  failure,
  onRetry,
  retryLabel = "Ask again",
}: {
  failure: Failure;
  onRetry?: () => void;
  retryLabel?: string;
}) {
  const { title, text } = explained(failure);
  const wait = useWait(failure.retryAt);
  const signIn = failure.status === 401 || failure.status === 403;
  return (
    <div className="failure" role="alert">
      <CircleAlert aria-hidden />
      <div>
        <p className="failure-title">{title}</p>
        <p>{text}</p>
        <details>
          <summary>Details</summary>
          <dl>
            {failure.message && (
              <div>
                <dt>The service says</dt>
                <dd>{failure.message}</dd>
              </div>
            )}
            {failure.status > 0 && (
              <div>
                <dt>Status</dt>
                <dd>
                  {failure.status} {failure.code}
                </dd>
              </div>
            )}
            {failure.field && (
              <div>
                <dt>Field</dt>
                <dd>{failure.field}</dd>
              </div>
            )}
          </dl>
        </details>
        {failure.requestId && (
          <p className="request-id">
            Request <code>{failure.requestId}</code>
          </p>
        )}
        <div className="failure-actions">
          {signIn && (
            <>
              <button type="button" className="button" onClick={() => location.reload()}>
                Sign in again
              </button>
              <button type="button" className="button quiet" onClick={() => openPanel("settings")}>
                <KeyRound aria-hidden /> Enter a token
              </button>
            </>
          )}
          {onRetry && !signIn && (
            <button type="button" className="button" onClick={onRetry} disabled={wait > 0}>
              <RotateCw aria-hidden /> {wait > 0 ? `${retryLabel} in ${wait} s` : retryLabel}
            </button>
          )}
        </div>
      </div>
    </div>
  );
}

/** Whole seconds until a time; 0 if it has passed. */
function useWait(until: number | null): number {
  const [now, setNow] = useState(() => Date.now());
  const wait = until === null ? 0 : Math.max(0, Math.ceil((until - now) / 1000));
  useEffect(() => {
    if (wait === 0) return;
    const timer = setInterval(() => setNow(Date.now()), 500);
    return () => clearInterval(timer);
  }, [wait]);
  return wait;
}
