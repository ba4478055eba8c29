/** The available models and indexes with example questions, and whether uploads are possible. */

import { create } from "zustand";
import { config } from "./config";
import { ApiError, type Failure } from "./http";
import { indexes, models } from "./transformer";
import type { IndexInfo, PageConfig } from "./wire";

interface Catalog {
  config: PageConfig | null;
  models: string[];
  indexes: IndexInfo[];
  /** Name of the default index. */
  defaultIndex: string | null;
  /** The reason nothing can be answered now, or null. */
  reason: string | null;
  failure: Failure | null;
}

export const useCatalog = create<Catalog>()(() => ({
  config: null,
  models: [],
  indexes: [],
  defaultIndex: null,
  reason: null,
  failure: null,
}));

/** Reloads everything. Keeps the previous value of requests that fail. */
export async function refresh(): Promise<void> {
  const [page, served, known] = await Promise.allSettled([config(), indexes(), models()]);
  if (page.status === "fulfilled") useCatalog.setState({ config: page.value });
  if (known.status === "fulfilled") useCatalog.setState({ models: known.value.data.map(({ id }) => id) });
  if (served.status === "fulfilled") {
    const { indexes, default: defaultIndex, reason } = served.value;
    useCatalog.setState({ indexes, defaultIndex, reason, failure: null });
  } else if (served.reason instanceof ApiError) {
    useCatalog.setState({ failure: served.reason.failure });
  }
}
