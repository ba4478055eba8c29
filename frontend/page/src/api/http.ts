/** All requests to the page's server: addresses, the bearer token, readable errors. */

import type { ErrorBody } from "./wire";

const TOKEN_KEY = "kserve-rag.token";

/** The bearer token of this tab; lost when the tab closes. */
export const token = {
  get: (): string => sessionStorage.getItem(TOKEN_KEY) ?? "",
  set: (value: string): void => {
    if (value) sessionStorage.setItem(TOKEN_KEY, value);
    else sessionStorage.removeItem(TOKEN_KEY);
  },
};

/** An error, as stored with an answer. `status` 0: no response. */
export interface Failure {
  status: number;
  code: string;
  message: string;
  field: string | null;
  requestId: string | null;
  retryAt: number | null;
}

export class ApiError extends Error {
  constructor(readonly failure: Failure) {
    super(failure.message);
    this.name = "ApiError";
  }
}

/** URL of a route, relative to the path that the page is served under. */
export function address(path: string): string {
  return new URL(`api/${path}`, document.baseURI).href;
}

export function headers(more: Record<string, string> = {}): Record<string, string> {
  const bearer = token.get();
  return { ...more, ...(bearer ? { authorization: `Bearer ${bearer}` } : {}) };
}

/**
 * Sends a request and returns a 2xx response.
 *
 * @throws ApiError for every other response and for network errors. AbortError passes through.
 */
export async function call(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(address(path), { ...init, credentials: "same-origin", redirect: "manual" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(unreachable());
  }
  // A gateway redirected to its sign-in page: the session has expired.
  if (response.type === "opaqueredirect") throw new ApiError({ ...unreachable(), status: 401, code: "signed_out" });
  if (response.ok) return response;
  throw new ApiError(failureOf(response.status, response.headers, await response.text().catch(() => "")));
}

export async function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  const response = await call(path, {
    headers: headers({ accept: "application/json" }),
    ...(signal ? { signal } : {}),
  });
  return (await response.json()) as T;
}

/** The error of a response, from its status, headers and body. */
export function failureOf(status: number, from: { get(name: string): string | null }, text: string): Failure {
  const body = errorBody(text);
  const seconds = Number(from.get("retry-after"));
  return {
    status,
    code: body?.code ?? "",
    message: body?.error ?? "",
    field: body?.field ?? null,
    requestId: from.get("x-request-id"),
    retryAt: Number.isFinite(seconds) && seconds > 0 ? Date.now() + Math.min(seconds, 600) * 1000 : null,
  };
}

export function unreachable(): Failure {
  return { status: 0, code: "unreachable", message: "", field: null, requestId: null, retryAt: null };
}

function errorBody(text: string): ErrorBody | null {
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body === "object" && body !== null && "error" in body && typeof body.error === "string") {
      return body as ErrorBody;
    }
  } catch {
    // Not our JSON, probably a gateway's page: use the status.
  }
  return null;
}
