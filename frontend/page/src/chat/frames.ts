/** Batches events to one update per frame. */

export interface Frames<T> {
  push: (event: T) => void;
  flush: () => void;
}

export function everyFrame<T>(take: (events: readonly T[]) => void): Frames<T> {
  let waiting: T[] = [];
  let cancel: (() => void) | null = null;
  const flush = () => {
    cancel?.();
    cancel = null;
    if (waiting.length === 0) return;
    const events = waiting;
    waiting = [];
    take(events);
  };
  return {
    push: (event) => {
      waiting.push(event);
      cancel ??= soon(flush);
    },
    flush,
  };
}

/** Background pages get no animation frames. */
function soon(then: () => void): () => void {
  if (document.hidden) {
    const timer = setTimeout(then, 100);
    return () => clearTimeout(timer);
  }
  const frame = requestAnimationFrame(then);
  return () => cancelAnimationFrame(frame);
}
