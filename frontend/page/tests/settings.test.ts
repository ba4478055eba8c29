import { describe, expect, it } from "vitest";
import { changed, DEFAULTS, parameters, RANGES, restored, within } from "../src/settings/settings";

describe("settings", () => {
  it("are sent as they are: a zero is a zero", () => {
    const zero = { ...DEFAULTS, numDocs: 0, temperature: 0, topP: 0, topK: 0, maxTokens: 0 };
    expect(parameters(zero, true)).toEqual({
      num_docs: 0,
      temperature: 0,
      top_p: 0,
      top_k: 0,
      max_tokens: 0,
      retrieval: true,
    });
  });

  it("are not sent unless the user has chosen them", () => {
    expect(parameters(DEFAULTS, true)).toEqual({ retrieval: true });
    expect(parameters({ ...DEFAULTS, answers: "quote" }, true)).toEqual({ answers: "quote", retrieval: true });
  });

  it("name the model that the user has chosen", () => {
    expect(parameters({ ...DEFAULTS, model: "claude" }, false)).toEqual({ model: "claude", retrieval: false });
  });

  it("name indexes only where something is searched", () => {
    const chosen = { ...DEFAULTS, collections: ["a"] };
    expect(parameters(chosen, true)).toHaveProperty("collections", ["a"]);
    expect(parameters(chosen, false)).not.toHaveProperty("collections");
  });

  it("stay within what the service takes", () => {
    expect(within(RANGES.temperature, 9)).toBe(2);
    expect(within(RANGES.temperature, 0.1 + 0.2)).toBe(0.3);
    expect(within(RANGES.topK, -1)).toBe(0);
    expect(within(RANGES.numDocs, NaN)).toBeNull();
  });

  it("are restored without what does not fit", () => {
    const kept = { numDocs: 1e9, topK: "x", retrieval: false, collections: [], answers: "guess", unknown: 1 };
    expect(restored({ settings: kept })).toEqual({ ...DEFAULTS, numDocs: 100, retrieval: false });
    expect(restored({ settings: { answers: "write" } })).toEqual({ ...DEFAULTS, answers: "write" });
    expect(restored(null)).toBe(DEFAULTS);
    expect(restored({ settings: "x" })).toEqual(DEFAULTS);
  });

  it("tell how many are changed", () => {
    expect(changed(DEFAULTS)).toBe(0);
    expect(changed({ ...DEFAULTS, topK: 9, compare: true })).toBe(2);
  });
});
