/** The user's settings: ranges, meaning and storage. */

import { create } from "zustand";
import { createJSONStorage, persist } from "zustand/middleware";
import type { Defaults, GenerateRequest } from "../api/wire";

/** Null: the transformer's default. */
export interface Settings {
  /** Name of the model that answers. */
  model: string | null;
  /** Indexes to search. */
  collections: string[] | null;
  retrieval: boolean;
  compare: boolean;
  answers: AnswerMode | null;
  numDocs: number | null;
  temperature: number | null;
  topP: number | null;
  topK: number | null;
  maxTokens: number | null;
}

export type AnswerMode = Defaults["answers"];

/** Label and meaning of each answer mode. */
export const ANSWER_MODES: Record<AnswerMode, { label: string; hint: string }> = {
  auto: {
    label: "Checked",
    hint: "The model writes, and you see the sentences that the documents support. If there are none, you see a quote.",
  },
  quote: { label: "Quotes", hint: "You see the sentences of the documents that answer. The model writes nothing." },
  write: { label: "Everything", hint: "You see all that the model writes. Unsupported sentences are underlined." },
};

export const DEFAULTS: Readonly<Settings> = {
  model: null,
  collections: null,
  retrieval: true,
  compare: false,
  answers: null,
  numDocs: null,
  temperature: null,
  topP: null,
  topK: null,
  maxTokens: null,
};

export type NumberSetting = "numDocs" | "temperature" | "topP" | "topK" | "maxTokens";

export interface Range {
  label: string;
  /** Field of the request. */
  field: "num_docs" | "temperature" | "top_p" | "top_k" | "max_tokens";
  min: number;
  max: number;
  step: number;
  /** Maximum of the slider; the number field accepts more. */
  slider: number;
  hint: string;
}

/** The ranges of docs/api.md. */
export const RANGES: Record<NumberSetting, Range> = {
  numDocs: {
    label: "Passages",
    field: "num_docs",
    min: 0,
    max: 100,
    step: 1,
    slider: 20,
    hint: "Passages that the model reads. More passages cover more and take longer. 0: none.",
  },
  temperature: {
    label: "Temperature",
    field: "temperature",
    min: 0,
    max: 2,
    step: 0.05,
    slider: 2,
    hint: "Randomness of the wording. 0 always takes the likeliest word; above 1 the text becomes erratic.",
  },
  topP: {
    label: "Top p",
    field: "top_p",
    min: 0,
    max: 1,
    step: 0.05,
    slider: 1,
    hint: "Considers only the likeliest words that together have this probability. 1: all words; 0: only the likeliest.",
  },
  topK: {
    label: "Top k",
    field: "top_k",
    min: 0,
    max: 1000,
    step: 1,
    slider: 100,
    hint: "Considers only this many of the likeliest words. 0: all words.",
  },
  maxTokens: {
    label: "Longest answer",
    field: "max_tokens",
    min: 0,
    max: 131_072,
    step: 1,
    slider: 2048,
    hint: "Maximum tokens of an answer; a token is about three quarters of a word. 0: search only.",
  },
};

/** The nearest valid value; null if it is not a number. */
export function within(range: Range, value: number): number | null {
  if (!Number.isFinite(value)) return null;
  const stepped = Math.round(value / range.step) * range.step;
  return Math.min(Math.max(Number(stepped.toFixed(4)), range.min), range.max);
}

/** The parameters of a request. What the user has not chosen is not sent. */
export function parameters(settings: Settings, grounded: boolean): Omit<GenerateRequest, "text_input" | "history"> {
  const chosen = (Object.keys(RANGES) as NumberSetting[]).filter((name) => settings[name] !== null);
  return {
    ...Object.fromEntries(chosen.map((name) => [RANGES[name].field, settings[name]])),
    ...(settings.model ? { model: settings.model } : {}),
    ...(settings.answers ? { answers: settings.answers } : {}),
    retrieval: grounded,
    ...(grounded && settings.collections ? { collections: settings.collections } : {}),
  };
}

/** Number of settings that differ from the defaults. */
export function changed(settings: Settings): number {
  return (Object.keys(DEFAULTS) as (keyof Settings)[]).filter(
    (name) => JSON.stringify(settings[name]) !== JSON.stringify(DEFAULTS[name]),
  ).length;
}

interface SettingsState {
  settings: Settings;
  set: (change: Partial<Settings>) => void;
  reset: () => void;
}

export const useSettings = create<SettingsState>()(
  persist(
    (set) => ({
      settings: DEFAULTS,
      set: (change) => set((state) => ({ settings: { ...state.settings, ...change } })),
      reset: () => set({ settings: DEFAULTS }),
    }),
    {
      name: "kserve-rag.settings",
      version: 1,
      migrate: () => null,
      storage: createJSONStorage(() => localStorage),
      partialize: ({ settings }) => ({ settings }),
      merge: (kept, current) => ({ ...current, settings: restored(kept) }),
    },
  ),
);

/** Stored settings, without unknown or invalid values. */
export function restored(kept: unknown): Settings {
  const from = (typeof kept === "object" && kept !== null && "settings" in kept ? kept.settings : null) as Partial<
    Record<keyof Settings, unknown>
  > | null;
  if (!from) return DEFAULTS;
  const settings: Settings = { ...DEFAULTS };
  for (const name of Object.keys(RANGES) as NumberSetting[]) {
    const value = from[name];
    settings[name] = typeof value === "number" ? within(RANGES[name], value) : null;
  }
  if (typeof from.retrieval === "boolean") settings.retrieval = from.retrieval;
  if (typeof from.compare === "boolean") settings.compare = from.compare;
  if (typeof from.model === "string") settings.model = from.model;
  if (typeof from.answers === "string" && from.answers in ANSWER_MODES) settings.answers = from.answers as AnswerMode;
  if (Array.isArray(from.collections) && from.collections.every((name) => typeof name === "string")) {
    settings.collections = from.collections.length > 0 ? from.collections : null;
  }
  return settings;
}
