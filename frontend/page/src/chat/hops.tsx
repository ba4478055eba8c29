/** The answer's total time, and on demand the time of each step. */

import { ChevronDown } from "lucide-react";
import { useEffect, useMemo, useState } from "react";
import { create } from "zustand";
import { duration, plural } from "../text/format";
import { isRunning, type Answer } from "./answer";
import { hops, type Hop } from "./waterfall";

const KEY = "kserve-rag.hops";

/** Whether the steps are shown; shared by all answers. */
const useShown = create<{ shown: boolean }>()(() => ({ shown: localStorage.getItem(KEY) === "shown" }));

function toggle(): void {
  const shown = !useShown.getState().shown;
  localStorage.setItem(KEY, shown ? "shown" : "hidden");
  useShown.setState({ shown });
}

export function Hops({ answer }: { answer: Answer }) {
  const shown = useShown((state) => state.shown);
  const running = isRunning(answer);
  const now = useNow(running);
  const found = useMemo(() => hops(answer, now), [answer, now]);
  const total = (running ? now : (answer.endedAt ?? answer.askedAt)) - answer.askedAt;
  if (found.length === 0) return null;
  const current = found.at(-1);
  const tokens = answer.usage?.completion_tokens ?? 0;
  const writing = answer.timings["generation"] ?? 0;
  return (
    <>
      <button type="button" className="hops-toggle" onClick={toggle} aria-expanded={shown}>
        <span className="hops-line">
          {running && current ? `${current.label} · ` : ""}
          {duration(total)}
          {tokens > 0 && ` · ${plural(tokens, "token")}`}
          {tokens > 1 && writing > 0 && ` · ${Math.round((tokens / writing) * 1000)} per second`}
        </span>
        <ChevronDown aria-hidden className={shown ? "turned" : undefined} />
        <span className="sr-only">Timing by step</span>
      </button>
      {shown && <Waterfall hops={found} total={Math.max(total, 1)} />}
    </>
  );
}

function Waterfall({ hops, total }: { hops: readonly Hop[]; total: number }) {
  const end = Math.max(total, ...hops.map(({ start, ms }) => start + ms));
  return (
    <ol className="waterfall">
      {hops.map((hop) => (
        <li key={hop.name} title={hop.hint} className={hop.open ? "open" : undefined} data-hop={hop.name}>
          <span className="hop-name">{hop.label}</span>
          <svg viewBox="0 0 1000 8" preserveAspectRatio="none" aria-hidden>
            <rect width="1000" height="8" rx="4" className="bar-ground" />
            <rect
              x={(hop.start / end) * 1000}
              width={Math.max((hop.ms / end) * 1000, 3)}
              height="8"
              rx="4"
              className={`bar bar-${hop.name}`}
            />
          </svg>
          <span className="hop-time">{duration(hop.ms)}</span>
          <span className="sr-only">{hop.hint}</span>
        </li>
      ))}
    </ol>
  );
}

/** The current time, ten times a second while running. */
function useNow(running: boolean): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => setNow(Date.now()), 100);
    return () => clearInterval(timer);
  }, [running]);
  return now;
}
