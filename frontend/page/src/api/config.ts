/** Configuration from the page's server. */

import { getJson } from "./http";
import type { PageConfig } from "./wire";

export const config = (signal?: AbortSignal) => getJson<PageConfig>("config", signal);
