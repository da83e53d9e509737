// The service: arrays in and out, its errors in words, the API key.

import * as npy from "./npy.js";

const KEY = "denoiser-api-key"; // in sessionStorage: gone with the tab
const NPY = "application/x-npy";

/** An error for people: `kind` is "offline", "busy", "key" or "refused"; `wait` in ms, or null. */
export class ServiceError extends Error {
  constructor(kind, title, text, wait = null) {
    super(text);
    Object.assign(this, { kind, title, wait });
  }
}

let key = null;
try {
  key = sessionStorage.getItem(KEY);
} catch { /* a browser that blocks site data: the key is gone with the page */ }

export function setKey(text) {
  key = text;
  try {
    sessionStorage.setItem(KEY, text);
  } catch { /* as above */ }
}

export const hasKey = () => key !== null;

/** The bundle's manifest. */
export async function manifest() {
  return (await request("model", {})).json();
}

/**
 * Call one of the three routes.
 *
 * @param route "encode", "decode" or "denoise", with its query
 * @param rows Uint8Array (images, 0 to 255) or Float32Array (latents), N rows after each other
 * @param shape of all rows: [N, height, width, channels] or [N, latent size]
 * @returns { values, shape, scores }: scores is one number per row, with "score=true"
 */
export async function run(route, rows, shape) {
  const headers = { "Content-Type": NPY, Accept: NPY };
  const response = await request(route, { method: "POST", headers, body: npy.encode(rows, shape) });
  const scores = response.headers.get("X-Scores")?.split(",").map(Number);
  return { ...npy.decode(await response.arrayBuffer()), scores };
}

/** Denoise the PNGs of a form: a zip of as many PNGs, in the form's order. */
export async function denoiseForm(form, signal) {
  const headers = { Accept: "application/zip" };
  return (await request("denoise", { method: "POST", headers, body: form, signal })).blob();
}

async function request(path, options) {
  const headers = { ...options.headers, ...(hasKey() && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("offline", "The service does not answer.",
      "It may have stopped, or the network is down. The page tries again by itself.", 3000);
  }
  if (response.ok) return response;
  throw await errorOf(response);
}

async function errorOf(response) {
  const problem = await response.json().catch(() => ({})); // a proxy may answer in its own form
  if (response.status === 401) {
    return hasKey()
      ? new ServiceError("key", "Wrong API key.", "The service did not accept it. Try another.")
      : new ServiceError("key", "This service needs an API key.", "Ask its operator for one.");
  }
  if (response.status === 429) {
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    return new ServiceError("busy", "The service is busy.",
      "It has too many requests at the moment. The page tries again by itself.", 1000 * seconds);
  }
  const text = problem.received
    ? `It received ${problem.received}; expected ${problem.expected}. ${problem.hint ?? ""}`
    : `It answered with status ${response.status}.`;
  return new ServiceError("refused", `${problem.title || "The service refused the request"}.`, text);
}

/**
 * One request in flight, and the newest input waiting: inputs in between are never sent, and an
 * answer is shown only while nothing newer has been shown.
 *
 * @param work async (input) → answer
 * @param show (answer, input)
 * @param fail (error, input)
 */
export class Latest {
  #busy = false;
  #next = null;

  constructor({ work, show, fail }) {
    Object.assign(this, { work, show, fail });
  }

  send(input) {
    this.#next = { input };
    if (!this.#busy) this.#run();
  }

  /** Drop the input that waits, and the answer that is on its way. */
  drop() {
    this.#next = null;
    this.dropped = true;
  }

  async #run() {
    this.#busy = true;
    while (this.#next) {
      const { input } = this.#next;
      this.#next = null;
      this.dropped = false;
      try {
        const answer = await this.work(input);
        if (!this.dropped) this.show(answer, input);
      } catch (error) {
        if (!this.dropped && !this.#next) this.fail(error, input);
      }
    }
    this.#busy = false;
  }
}
