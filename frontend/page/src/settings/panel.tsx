/** The settings panel. */

import { useId, useState } from "react";
import { refresh, useCatalog, useDefaults } from "../api/catalog";
import { token } from "../api/http";
import { plural } from "../text/format";
import { Sheet } from "../ui/sheet";
import {
  ANSWER_MODES,
  changed,
  RANGES,
  useSettings,
  within,
  type AnswerMode,
  type NumberSetting,
  type Range,
} from "./settings";

export default function SettingsPanel({ onClose }: { onClose: () => void }) {
  const { settings, set, reset } = useSettings();
  const adjusted = changed(settings);
  return (
    <Sheet
      title="Settings"
      className="settings"
      onClose={onClose}
      aside={
        <button type="button" className="button quiet" onClick={reset} disabled={adjusted === 0}>
          Reset to defaults
        </button>
      }
    >
      <section aria-labelledby="settings-knowledge">
        <h3 id="settings-knowledge">Documents</h3>
        <Switch
          label="Answer from the documents"
          hint="Off: the model answers from its training; nothing is searched."
          checked={settings.retrieval}
          onChange={(retrieval) => set({ retrieval })}
        />
        <Switch
          label="Compare"
          hint="Answers each question twice, with and without documents, side by side."
          checked={settings.compare}
          onChange={(compare) => set({ compare })}
        />
        <Answers />
        <Collections />
        <NumberField name="numDocs" />
      </section>
      <section aria-labelledby="settings-model">
        <h3 id="settings-model">Model</h3>
        <Model />
        {(["maxTokens", "temperature", "topP", "topK"] as const).map((name) => (
          <NumberField key={name} name={name} />
        ))}
      </section>
      <section aria-labelledby="settings-access">
        <h3 id="settings-access">Access</h3>
        <Token />
      </section>
    </Sheet>
  );
}

function Switch(props: { label: string; hint: string; checked: boolean; onChange: (checked: boolean) => void }) {
  const id = useId();
  return (
    <div className="field switch-field">
      <div>
        <label htmlFor={id}>{props.label}</label>
        <p id={`${id}-hint`}>{props.hint}</p>
      </div>
      <input
        id={id}
        type="checkbox"
        role="switch"
        className="switch"
        checked={props.checked}
        onChange={(event) => props.onChange(event.target.checked)}
        aria-describedby={`${id}-hint`}
      />
    </div>
  );
}

function Answers() {
  const chosen = useSettings((state) => state.settings.answers);
  const usual = useDefaults(useSettings((state) => state.settings.model)).answers;
  const set = useSettings((state) => state.set);
  const id = useId();
  const mode = chosen ?? usual;
  return (
    <div className="field">
      <div className="field-row">
        <label htmlFor={id}>Answers</label>
        <select
          id={id}
          value={mode}
          aria-describedby={`${id}-hint`}
          onChange={(event) => set({ answers: event.target.value as AnswerMode })}
        >
          {Object.entries(ANSWER_MODES).map(([name, { label }]) => (
            <option key={name} value={name}>
              {label}
            </option>
          ))}
        </select>
      </div>
      <p id={`${id}-hint`}>{ANSWER_MODES[mode].hint}</p>
    </div>
  );
}

function NumberField({ name }: { name: NumberSetting }) {
  const range = RANGES[name];
  const chosen = useSettings((state) => state.settings[name]);
  const usual = useDefaults(useSettings((state) => state.settings.model))[range.field];
  const set = useSettings((state) => state.set);
  const value = chosen ?? usual;
  const id = useId();
  return (
    <div className="field">
      <div className="field-row">
        <label htmlFor={id}>{range.label}</label>
        <NumberInput id={id} range={range} value={value} onChange={(next) => set({ [name]: next })} />
      </div>
      <input
        type="range"
        aria-label={`${range.label}, slider`}
        min={range.min}
        max={range.slider}
        step={range.step}
        value={Math.min(value, range.slider)}
        onChange={(event) => set({ [name]: within(range, event.target.valueAsNumber) })}
      />
      <p id={`${id}-hint`}>{range.hint}</p>
    </div>
  );
}

/** A number field that corrects invalid values on blur. */
function NumberInput(props: { id: string; range: Range; value: number; onChange: (value: number) => void }) {
  const { id, range, value, onChange } = props;
  const [typed, setTyped] = useState<string | null>(null);
  return (
    <input
      id={id}
      type="number"
      inputMode="decimal"
      min={range.min}
      max={range.max}
      step={range.step}
      value={typed ?? value}
      aria-describedby={`${id}-hint`}
      onChange={(event) => {
        setTyped(event.target.value);
        const next = event.target.value === "" ? null : within(range, event.target.valueAsNumber);
        if (next !== null) onChange(next);
      }}
      onBlur={() => setTyped(null)}
    />
  );
}

function Collections() {
  const { indexes, defaultIndex } = useCatalog();
  const chosen = useSettings((state) => state.settings.collections);
  const set = useSettings((state) => state.set);
  const effective = chosen ?? (defaultIndex === null ? [] : [defaultIndex]);
  const toggle = (name: string) => {
    const next = effective.includes(name) ? effective.filter((one) => one !== name) : [...effective, name];
    const isDefault = next.length === 0 || (next.length === 1 && next[0] === defaultIndex);
    set({ collections: isDefault ? null : next });
  };
  // Keep showing a chosen index that is no longer served, so that it can be deselected.
  const gone = effective.filter((name) => !indexes.some((index) => index.name === name));
  if (indexes.length === 0) return null;
  return (
    <fieldset className="field">
      <legend>{indexes.length > 1 ? "Indexes" : "Index"}</legend>
      <ul className="choices">
        {indexes.map((index) => (
          <li key={index.name}>
            <label>
              <input
                type="checkbox"
                checked={effective.includes(index.name)}
                disabled={indexes.length === 1 && gone.length === 0}
                onChange={() => toggle(index.name)}
              />
              <span>{index.name}</span>
              <small>
                {plural(index.documents, "document")}, {plural(index.chunks, "passage")}
              </small>
            </label>
          </li>
        ))}
        {gone.map((name) => (
          <li key={name}>
            <label>
              <input type="checkbox" checked onChange={() => toggle(name)} />
              <span>{name}</span>
              <small>no longer served</small>
            </label>
          </li>
        ))}
      </ul>
      <p>The indexes to search. Passages of several are ranked together.</p>
    </fieldset>
  );
}

function Model() {
  const models = useCatalog((state) => state.models);
  const chosen = useSettings((state) => state.settings.model);
  const set = useSettings((state) => state.set);
  const id = useId();
  const own = models[0]?.id ?? "";
  const names = new Map(models.map((model) => [model.id, model.display_name]));
  // Keep showing a chosen model that is no longer served.
  if (chosen !== null && !names.has(chosen)) names.set(chosen, `${chosen} (no longer served)`);
  return (
    <div className="field">
      <div className="field-row">
        <label htmlFor={id}>Model</label>
        <select
          id={id}
          value={chosen ?? own}
          onChange={({ target }) => set({ model: target.value === own ? null : target.value })}
        >
          {[...names].map(([name, label]) => (
            <option key={name} value={name}>
              {label}
            </option>
          ))}
        </select>
      </div>
      <p>The model that writes the answers.</p>
    </div>
  );
}

function Token() {
  const id = useId();
  const [value, setValue] = useState(token.get);
  return (
    <div className="field">
      <label htmlFor={id}>Access token</label>
      <input
        id={id}
        type="password"
        autoComplete="off"
        spellCheck={false}
        value={value}
        onChange={(event) => {
          const next = event.target.value.trim();
          setValue(next);
          token.set(next);
        }}
        onBlur={() => void refresh()}
        aria-describedby={`${id}-hint`}
      />
      <p id={`${id}-hint`}>
        Sent with every question, for a cluster that asks for one. Kept in this tab, and gone when it is closed.
      </p>
    </div>
  );
}
