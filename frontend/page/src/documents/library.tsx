/** The documents of an index: list, uploads and deletions. */

import { Check, CircleAlert, CircleX, FileText, FileUp, RefreshCw, Trash2, X } from "lucide-react";
import { useEffect, useId, useMemo, useRef, useState, type ReactNode } from "react";
import { useCatalog } from "../api/catalog";
import type { ListedDocument, Limits, Task } from "../api/wire";
import { FailureNote } from "../chat/failure";
import { bytes, count, duration, plural } from "../text/format";
import { usePanels } from "../ui/panels";
import { Sheet } from "../ui/sheet";
import { add, cancel, dismiss, open, reindex, remove, useUploads, type Job } from "./uploads";

export default function Library({ onClose }: { onClose: () => void }) {
  const { indexes, defaultIndex } = useCatalog();
  const [chosen, setChosen] = useState<string | null>(null);
  const index = chosen ?? defaultIndex ?? "default";
  const { limits, documents, listed, failure, jobs, refused } = useUploads();
  const busy = jobs.some(isBusy);

  useEffect(() => {
    useUploads.setState({ documents: [], listed: false, failure: null, refused: [] });
    void open(index);
  }, [index]);
  useDropped(index, limits);

  return (
    <Sheet
      title="Documents"
      wide
      className="library"
      onClose={onClose}
      aside={
        <button
          type="button"
          className="button quiet"
          disabled={busy || !listed}
          onClick={() => reindex(index)}
          title="Re-index every document, for example after a change of settings"
        >
          <RefreshCw aria-hidden /> Re-index everything
        </button>
      }
      head={indexes.length > 1 ? <IndexChoice value={index} onChange={setChosen} /> : undefined}
    >
      {failure && <FailureNote failure={failure} onRetry={() => void open(index)} retryLabel="Try again" />}
      {!failure && <DropZone limits={limits} onFiles={(files) => add(index, files)} />}
      {refused.length > 0 && (
        <div className="refused" role="alert">
          <h3>Not sent</h3>
          <Reasons entries={refused.map(({ name, reason }) => ({ source: name, reason }))} />
        </div>
      )}
      {jobs.length > 0 && (
        <ul className="jobs" aria-label="Tasks">
          {jobs.map((job) => (
            <JobView key={job.id} index={index} job={job} onClose={onClose} />
          ))}
        </ul>
      )}
      {listed && <DocumentTable index={index} documents={documents} />}
    </Sheet>
  );
}

/** Sends dropped files once the limits are known. */
function useDropped(index: string, limits: Limits | null): void {
  const dropped = usePanels((state) => state.dropped);
  useEffect(() => {
    if (!limits || dropped.length === 0) return;
    usePanels.setState({ dropped: [] });
    add(index, dropped);
  }, [index, limits, dropped]);
}

function IndexChoice({ value, onChange }: { value: string; onChange: (name: string) => void }) {
  const indexes = useCatalog((state) => state.indexes);
  const id = useId();
  return (
    <div className="field-row">
      <label htmlFor={id}>Index</label>
      <select id={id} value={value} onChange={(event) => onChange(event.target.value)}>
        {indexes.map(({ name }) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </div>
  );
}

function DropZone({ limits, onFiles }: { limits: Limits | null; onFiles: (files: File[]) => void }) {
  const input = useRef<HTMLInputElement>(null);
  const [over, setOver] = useState(false);
  return (
    // For pointers; the keyboard uses the button.
    // eslint-disable-next-line jsx-a11y/no-noninteractive-element-interactions
    <section
      aria-label="Add documents"
      className={over ? "drop-zone over" : "drop-zone"}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        event.stopPropagation();
        setOver(false);
        onFiles([...event.dataTransfer.files]);
      }}
    >
      <FileUp aria-hidden />
      <p>
        Drop files here, or{" "}
        <button type="button" className="link" onClick={() => input.current?.click()} disabled={!limits}>
          choose them
        </button>
      </p>
      <input
        ref={input}
        type="file"
        multiple
        hidden
        aria-label="Files to add"
        accept={limits?.types.join(",")}
        onChange={(event) => {
          onFiles([...(event.target.files ?? [])]);
          event.target.value = "";
        }}
      />
      {limits && (
        <p className="drop-limits">
          {limits.types.map((type) => type.replace(".", "")).join(", ")}; up to {bytes(limits.max_file_bytes)} each,{" "}
          {plural(limits.max_files, "file")} at once
        </p>
      )}
    </section>
  );
}

function isBusy(job: Job): boolean {
  if (job.failure || job.cancelled) return false;
  if (job.task === null || job.task.state === "queued" || job.task.state === "running") return true;
  return job.task.state === "succeeded" && !job.served;
}

function JobView({ index, job, onClose }: { index: string; job: Job; onClose: () => void }) {
  const busy = isBusy(job);
  const { task } = job;
  const skipped = task?.result?.skipped ?? [];
  const notices = task?.result?.notices ?? [];
  return (
    <li
      className="job"
      data-state={job.cancelled ? "cancelled" : (task?.state ?? (job.failure ? "failed" : "sending"))}
    >
      <div className="job-head">
        <JobSign job={job} />
        <p className="job-title" dir="auto">
          {titleOf(job)}
        </p>
        {busy && task?.state === "succeeded" ? null : busy ? (
          <button type="button" className="button quiet" onClick={() => cancel(job)}>
            Cancel
          </button>
        ) : (
          <button
            type="button"
            className="icon-button"
            onClick={() => dismiss(job.id)}
            aria-label="Dismiss"
            title="Dismiss"
          >
            <X aria-hidden />
          </button>
        )}
      </div>
      {busy && <Progress job={job} />}
      {!busy && task?.state === "succeeded" && task.result && (
        <Result task={task} result={task.result} onClose={onClose} />
      )}
      {task?.error && <p className="job-hint bad">{task.error.message}</p>}
      {task?.error?.code === "removal_not_confirmed" && (
        <button
          type="button"
          className="button danger"
          onClick={() => {
            dismiss(job.id);
            reindex(index, true);
          }}
        >
          Remove them
        </button>
      )}
      {job.failure && <FailureNote failure={job.failure} />}
      {skipped.length > 0 && (
        <details className="skipped" open>
          <summary>{plural(skipped.length, "file")} not read</summary>
          <Reasons entries={skipped} />
        </details>
      )}
      {notices.length > 0 && (
        <details className="skipped">
          <summary>{plural(notices.length, "note")}</summary>
          <Reasons entries={notices.map(({ source, text }) => ({ source, reason: text }))} />
        </details>
      )}
    </li>
  );
}

function Result(props: { task: Task; result: NonNullable<Task["result"]>; onClose: () => void }) {
  const { task, result, onClose } = props;
  if (task.kind === "delete") {
    const kept = result.absence?.kept_in.length ?? 0;
    return (
      <p className="job-hint">
        {result.absence && "Verified: no trace of it remains in the index. "}
        {kept > 0 &&
          `${plural(kept, "earlier version")} that ${kept === 1 ? "is" : "are"} kept still ${kept === 1 ? "has" : "have"} it.`}
      </p>
    );
  }
  if (result.documents === 0) return <p className="job-hint">Nothing was added.</p>;
  return (
    <p className="job-hint">
      {plural(result.documents, "document")}, {plural(result.chunks, "passage")}.{" "}
      <button type="button" className="link" onClick={onClose}>
        Ask about {result.documents === 1 ? "it" : "them"} now
      </button>
    </p>
  );
}

function JobSign({ job }: { job: Job }): ReactNode {
  if (job.failure || job.task?.state === "failed") return <CircleAlert aria-hidden className="bad" />;
  if (job.cancelled || job.task?.state === "cancelled") return <CircleX aria-hidden />;
  if (job.task?.state === "succeeded" && job.served) return <Check aria-hidden className="good" />;
  return <span className="spinner" aria-hidden />;
}

function titleOf(job: Job): string {
  const what = job.names.length === 1 ? (job.names[0] ?? "") : plural(job.names.length, "file");
  const state = job.failure
    ? "failed"
    : job.cancelled
      ? "cancelled"
      : isBusy(job)
        ? "running"
        : (job.task?.state ?? "");
  const verbs: Record<Task["kind"], Record<string, string>> = {
    upload: {
      succeeded: `Added ${what}`,
      failed: `${what} could not be added`,
      cancelled: `${what} not added`,
      running: `Adding ${what}`,
    },
    delete: {
      succeeded: `Removed ${what}`,
      failed: `${what} could not be removed`,
      cancelled: `${what} not removed`,
      running: `Removing ${what}`,
    },
    reindex: {
      succeeded: "All documents re-indexed",
      failed: "Re-indexing failed",
      cancelled: "Re-indexing was cancelled",
      running: "Re-indexing all documents",
    },
  };
  return verbs[job.kind][state] ?? verbs[job.kind]["running"] ?? "";
}

const STAGES: Record<Task["progress"]["stage"], string> = {
  queued: "Queued",
  waiting: "Waiting",
  reading: "Reading",
  indexing: "Indexing",
  publishing: "Publishing",
  checking: "Verifying the deletion",
  done: "Finishing",
};

function Progress({ job }: { job: Job }) {
  const share = shareOf(job);
  const progress = job.task?.progress;
  const stage = job.task === null ? "Sending" : STAGES[job.task.progress.stage];
  return (
    <div className="job-progress">
      <progress max={1} {...(share === null ? {} : { value: share })} aria-label={stage} />
      <p role="status">
        {stage}
        {job.sent !== null && ` ${Math.round(job.sent * 100)} %`}
        {progress &&
          progress.files_total > 1 &&
          `, ${count(progress.files_done)} of ${plural(progress.files_total, "file")}`}
        {progress && progress.chunks_done > 0 && `, ${plural(progress.chunks_done, "passage")}`}
        {progress?.reason && `: ${progress.reason}`}
        {progress?.eta_s != null && progress.eta_s > 1 && `, about ${duration(progress.eta_s * 1000)} left`}
      </p>
    </div>
  );
}

function shareOf(job: Job): number | null {
  if (job.sent !== null) return job.sent < 1 ? job.sent : null;
  const progress = job.task?.progress;
  if (!progress) return null;
  if (progress.bytes_total > 0) return progress.bytes_done / progress.bytes_total;
  if (progress.files_total > 0) return progress.files_done / progress.files_total;
  return null;
}

function Reasons({ entries }: { entries: readonly { source: string; reason: string }[] }) {
  return (
    <ul className="reasons">
      {entries.map(({ source, reason }) => (
        <li key={`${source} ${reason}`}>
          <b>{source}</b> {reason}
        </li>
      ))}
    </ul>
  );
}

function DocumentTable({ index, documents }: { index: string; documents: readonly ListedDocument[] }) {
  const [search, setSearch] = useState("");
  const [asked, setAsked] = useState<string | null>(null);
  const found = useMemo(() => {
    const wanted = search.trim().toLowerCase();
    return wanted
      ? documents.filter(({ source, title }) => `${source} ${title}`.toLowerCase().includes(wanted))
      : documents;
  }, [documents, search]);
  return (
    <section className="document-list" aria-label="Documents of the index">
      <div className="field-row">
        <h3>{plural(documents.length, "file")}</h3>
        {documents.length > 8 && (
          <input
            type="search"
            placeholder="Find"
            aria-label="Find a document"
            value={search}
            onChange={(event) => setSearch(event.target.value)}
          />
        )}
      </div>
      <ul>
        {found.map((one) => (
          <li key={one.source}>
            <FileText aria-hidden />
            <div>
              <p className="document-title" dir="auto">
                {one.title || one.source}
              </p>
              <p className="document-facts">
                {one.title && one.title !== one.source && `${one.source} · `}
                {plural(one.chunks, "passage")}
                {one.size_bytes !== null && ` · ${bytes(one.size_bytes)}`}
                {one.origin === "upload" && " · uploaded"}
              </p>
              {one.stale != null && (
                <p className="document-facts bad">Stale, what was read before is kept: {one.stale}</p>
              )}
            </div>
            {one.origin === "folder" ? null : asked === one.source ? (
              <span className="confirm">
                <button
                  type="button"
                  className="button danger"
                  onClick={() => {
                    setAsked(null);
                    remove(index, one.source);
                  }}
                >
                  Remove
                </button>
                <button type="button" className="button quiet" onClick={() => setAsked(null)}>
                  Keep
                </button>
              </span>
            ) : (
              <button
                type="button"
                className="icon-button"
                onClick={() => setAsked(one.source)}
                aria-label={`Remove ${one.title || one.source}`}
                title="Remove"
              >
                <Trash2 aria-hidden />
              </button>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}
