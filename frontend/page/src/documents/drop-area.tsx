/** Accepts files dropped anywhere on the page. */

import { FileUp } from "lucide-react";
import { useEffect, useState } from "react";
import { useCatalog } from "../api/catalog";
import { openDocuments } from "../ui/panels";

export function DropArea() {
  const uploads = useCatalog((state) => state.config?.ingest) ?? false;
  const [over, setOver] = useState(false);
  useEffect(() => {
    let depth = 0;
    const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const enter = (event: DragEvent) => {
      if (hasFiles(event)) depth++;
      setOver(depth > 0);
    };
    const leave = (event: DragEvent) => {
      if (hasFiles(event)) depth = Math.max(0, depth - 1);
      setOver(depth > 0);
    };
    // Without this the browser would leave the page and open the file.
    const drag = (event: DragEvent) => hasFiles(event) && event.preventDefault();
    const drop = (event: DragEvent) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      depth = 0;
      setOver(false);
      const files = [...(event.dataTransfer?.files ?? [])];
      if (uploads && files.length > 0) openDocuments(files);
    };
    addEventListener("dragenter", enter);
    addEventListener("dragleave", leave);
    addEventListener("dragover", drag);
    addEventListener("drop", drop);
    return () => {
      removeEventListener("dragenter", enter);
      removeEventListener("dragleave", leave);
      removeEventListener("dragover", drag);
      removeEventListener("drop", drop);
    };
  }, [uploads]);
  if (!over || !uploads) return null;
  return (
    <div className="drop-area" aria-hidden>
      <FileUp />
      <p>Drop files to add them to the documents</p>
    </div>
  );
}
