// The service: arrays in and out, its errors in words, the API key.

import * as npy from "./npy.js";
import { entries } from "./zip.js";

const KEY = "denoiser-api-key"; // in sessionStorage: gone with the tab
const NPY = "application/x-npy";
const ZIP = "application/zip";
const TIMEOUT = 30_000; // ms for one answer, but for that to a form of many images
const BUSY = [429, 502, 503, 504]; // the service, or a proxy in front of it while it starts

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
export const manifest = () => request("model", (body) => JSON.parse(new TextDecoder().decode(body)));

/**
 * Call one of the three routes.
 *
 * @param route "encode", "decode" or "denoise", with its query
 * @param rows Uint8Array (images, 0 to 255) or Float32Array (latents), N rows after each other
 * @param shape of all rows: [N, height, width, channels] or [N, latent size]
 * @returns { values, shape, scores }: scores is one number per row, with "score=true"
 */
export function run(route, rows, shape) {
  const headers = { "Content-Type": NPY, Accept: NPY };
  const read = (body, { headers }) => ({ ...npy.decode(body), scores: headers.get("X-Scores")?.split(",").map(Number) });
  return request(route, read, { method: "POST", headers, body: npy.encode(rows, shape) });
}

/** Denoise the PNGs of a form: as many PNGs in its order, and the zip that holds them. */
export function denoiseForm(form, signal) {
  const read = (body) => ({ clean: entries(body), zip: new Blob([body], { type: ZIP }) });
  return request("denoise", read, { method: "POST", headers: { Accept: ZIP }, body: form, signal });
}

/** The answer as `read(body, response)` understands it. */
async function request(path, read, options = { method: "GET" }) {
  const headers = { ...options.headers, ...(hasKey() && { Authorization: `Bearer ${key}` }) };
  let response, body;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout?.(TIMEOUT), ...options, headers });
    body = await response.arrayBuffer();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("offline", "The service does not answer.",
      "It may have stopped, or the network is down. The page tries again by itself.", 3000);
  }
  try {
    if (response.ok) return read(body, response);
  } catch {
    throw new ServiceError("refused", "The answer is not the service's.", "Something between this page and the service may have replaced it.");
  }
  throw errorOf(response, new TextDecoder().decode(body));
}

function errorOf({ status, headers }, body) {
  if (status === 401) {
    return hasKey()
      ? new ServiceError("key", "Wrong API key.", "The service did not accept it. Try another.")
      : new ServiceError("key", "This service needs an API key.", "Ask its operator for one.");
  }
  if (BUSY.includes(status)) {
    return new ServiceError("busy", "The service is busy.",
      "It has too many requests, or is starting. The page tries again by itself.", 1000 * (Number(headers.get("Retry-After")) || 1));
  }
  let problem = {};
  try {
    problem = JSON.parse(body) ?? {};
  } catch { /* a proxy may answer in its own form */ }
  const text = problem.received
    ? `It received ${problem.received}; expected ${problem.expected}. ${problem.hint ?? ""}`
    : `It answered with status ${status}.`;
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
