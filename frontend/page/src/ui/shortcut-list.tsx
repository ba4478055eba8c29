import { Fragment } from "react";
import { Sheet } from "./sheet";
import { SHORTCUTS } from "./shortcuts";

export default function ShortcutList({ onClose }: { onClose: () => void }) {
  return (
    <Sheet title="Keyboard" centred onClose={onClose}>
      <dl className="shortcuts">
        {SHORTCUTS.map(({ keys, does }) => (
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
