/** The available models and indexes with example questions, and whether uploads are possible. */

import { create } from "zustand";
import { config } from "./config";
import { ApiError, type Failure } from "./http";
import { indexes, models } from "./transformer";
import type { Defaults, IndexInfo, ModelCard, PageConfig } from "./wire";

interface Catalog {
  config: PageConfig | null;
  /** The service's own first; its name is the service's. */
  models: ModelCard[];
  indexes: IndexInfo[];
  /** Name of the default index. */
  defaultIndex: string | null;
  /** The reason nothing can be answered now, or null. */
  reason: string | null;
  failure: Failure | null;
}

/** Those of `transformer/settings.py`, until the transformer has told its own. */
const DEFAULTS: Defaults = {
  answers: "auto",
  num_docs: 2,
  max_tokens: 512,
  temperature: 0.1,
  top_k: 4,
  top_p: 0.4,
  repetition_penalty: null,
  presence_penalty: null,
  frequency_penalty: null,
};

export const useCatalog = create<Catalog>()(() => ({
  config: null,
  models: [],
  indexes: [],
  defaultIndex: null,
  reason: null,
  failure: null,
}));

/** The parameters of a question to this model that sets none; null: the service's own model. */
export function useDefaults(model: string | null): Defaults {
  const models = useCatalog((state) => state.models);
  return (models.find(({ id }) => id === model) ?? models[0])?.defaults ?? DEFAULTS;
}

/** Reloads everything. Keeps the previous value of requests that fail. */
export async function refresh(): Promise<void> {
  const [page, served, known] = await Promise.allSettled([config(), indexes(), models()]);
  if (page.status === "fulfilled") useCatalog.setState({ config: page.value });
  if (known.status === "fulfilled") useCatalog.setState({ models: known.value.data });
  if (served.status === "fulfilled") {
    const { indexes, default: defaultIndex, reason } = served.value;
    useCatalog.setState({ indexes, defaultIndex, reason, failure: null });
  } else if (served.reason instanceof ApiError) {
    useCatalog.setState({ failure: served.reason.failure });
  }
}
