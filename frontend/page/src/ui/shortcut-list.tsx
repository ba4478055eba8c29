import { Fragment } from "react";
import { useCatalog } from "../api/catalog";
import { Sheet } from "./sheet";
import { SHORTCUTS } from "./shortcuts";

export default function ShortcutList({ onClose }: { onClose: () => void }) {
  const uploads = useCatalog((state) => state.config?.ingest) ?? false;
  const shown = SHORTCUTS.filter((shortcut) => uploads || !shortcut.uploads);
  return (
    <Sheet title="Keyboard" centred onClose={onClose}>
      <dl className="shortcuts">
        {shown.map(({ keys, does }) => (
          <div key={does}>
            <dt>{does}</dt>
            <dd>
              {keys.map((key, index) => (
                <Fragment key={key}>
                  {index > 0 && " "}
                  <kbd>{key}</kbd>
                </Fragment>
              ))}
            </dd>
          </div>
        ))}
      </dl>
    </Sheet>
  );
}
