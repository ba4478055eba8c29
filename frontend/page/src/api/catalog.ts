/** What there is to ask: models, indexes with their example questions, and whether documents can be uploaded. */

import { create } from "zustand";
import { config } from "./config";
import { ApiError, type Failure } from "./http";
import { indexes, models } from "./transformer";
import type { IndexInfo, PageConfig } from "./wire";

interface Catalog {
  config: PageConfig | null;
  models: string[];
  indexes: IndexInfo[];
  /** Name of the index that is searched where none is chosen. */
  defaultIndex: string | null;
  /** Why nothing can be answered at the moment. */
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

/** Asks for everything again. What does not answer stays as it was. */
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
