/** What the page's server tells about itself. */

import { getJson } from "./http";
import type { PageConfig } from "./wire";

export const config = (signal?: AbortSignal) => getJson<PageConfig>("config", signal);
