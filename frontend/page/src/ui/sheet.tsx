/** A panel over the page: the browser's own modal dialog, which traps the focus, closes on Escape and is announced. */

import { X } from "lucide-react";
import { useEffect, useRef, type ReactNode } from "react";

export interface SheetProps {
  title: string;
  /** Rendered beside the title. */
  aside?: ReactNode;
  /** Rendered below the title; does not scroll. */
  head?: ReactNode;
  wide?: boolean;
  centred?: boolean;
  className?: string;
  onClose: () => void;
  children: ReactNode;
}

export function Sheet({ title, aside, head, wide, centred, className, onClose, children }: SheetProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const element = dialog.current;
    const before = document.activeElement;
    element?.showModal();
    return () => {
      element?.close();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  const kind = centred ? "centred" : wide ? "sheet wide" : "sheet";
  return (
    // A click beside the panel closes it; keyboards have Escape and the button.
    // eslint-disable-next-line jsx-a11y/click-events-have-key-events, jsx-a11y/no-noninteractive-element-interactions
    <dialog
      ref={dialog}
      className={`${kind} ${className ?? ""}`}
      aria-labelledby="sheet-title"
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onClick={(event) => event.target === event.currentTarget && onClose()}
    >
      <div className="sheet-frame">
        <header className="sheet-header">
          <div className="sheet-title-row">
            <h2 id="sheet-title" dir="auto">
              {title}
            </h2>
            {aside}
            <button type="button" className="icon-button" onClick={onClose} aria-label="Close" title="Close (Esc)">
              <X aria-hidden />
            </button>
          </div>
          {head}
        </header>
        {/* Long content scrolls, also with the keyboard. */}
        {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
        <div className="sheet-body" role="region" aria-labelledby="sheet-title" tabIndex={0}>
          {children}
        </div>
      </div>
    </dialog>
  );
}
