import { Copy, CopyCheck } from "lucide-react";
import { useState } from "react";

/** A button that copies a text and confirms it. */
export function CopyButton({ label, title, text }: { label: string; title: string; text: () => string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await toClipboard(text());
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return (
    <button
      type="button"
      className="icon-button"
      onClick={() => void copy()}
      aria-label={copied ? "Copied" : label}
      title={title}
    >
      {copied ? <CopyCheck aria-hidden /> : <Copy aria-hidden />}
    </button>
  );
}

async function toClipboard(text: string): Promise<void> {
  if (window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // The clipboard API needs https or localhost; otherwise use execCommand.
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  // eslint-disable-next-line @typescript-eslint/no-deprecated
  document.execCommand("copy");
  area.remove();
}
