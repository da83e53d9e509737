// The service, as the page sees it: arrays in and out, errors in words, the API key.

import * as npy from "./npy.js";

const KEY = "denoiser-api-key"; // in sessionStorage: gone with the tab
const NPY = "application/x-npy";

/** What went wrong, for people: `kind` is "offline", "busy", "key" or "refused"; `wait` in ms. */
export class Trouble extends Error {
  constructor(kind, title, text, wait = null) {
    super(text);
    this.kind = kind;
    this.title = title;
    this.wait = wait;
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** The bundle's manifest. */
export async function manifest() {
  return (await ask("model", {})).json();
}

/**
 * Images or latents through one of the three routes.
 *
 * @param route "encode", "decode" or "denoise"
 * @param rows Uint8Array (images, 0 to 255) or Float32Array (latents), N rows after each other
 * @param shape of all rows: [N, height, width, channels] or [N, latent size]
 * @returns { values, shape, scores }: scores is one number a row where `score` asked for them
 */
export async function run(route, rows, shape, { score = false, dtype = null, signal } = {}) {
  const query = new URLSearchParams();
  if (score) query.set("score", "true");
  if (dtype) query.set("dtype", dtype);
  const answer = await ask(query.size ? `${route}?${query}` : route, {
    method: "POST",
    headers: { "Content-Type": NPY, Accept: NPY },
    body: npy.encode(rows, shape),
    signal,
  });
  const told = answer.headers.get("X-Scores");
  const scores = told?.split(",").map(Number);
  return { ...npy.decode(await answer.arrayBuffer()), scores };
}

async function ask(path, options) {
  const headers = new Headers(options.headers);
  if (hasKey()) headers.set("Authorization", `Bearer ${sessionStorage.getItem(KEY)}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("offline", "The service does not answer.",
      "It may have stopped, or the network is gone. The page tries again by itself.", 3000);
  }
  if (answer.ok) return answer;
  throw await refusal(answer);
}

async function refusal(answer) {
  const problem = await answer.json().catch(() => ({})); // a proxy may answer in its own form
  if (answer.status === 401) {
    return hasKey()
      ? new Trouble("key", "That is not the key.", "The service did not accept it. Try another.")
      : new Trouble("key", "This service wants a key.", "Whoever runs it has one for you.");
  }
  if (answer.status === 429) {
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    return new Trouble("busy", "The service is busy.",
      "Many are using it just now. The page tries again by itself.", 1000 * seconds);
  }
  const said = problem.received
    ? `It found ${problem.received}; it expects ${problem.expected}. ${problem.hint}`
    : `It answered with status ${answer.status}.`;
  return new Trouble("refused", `${problem.title || "The service refused"}.`, said);
}

/**
 * One request in flight, and the newest wish waiting: what came between is never sent, and an
 * answer is only shown while nothing newer has been shown.
 *
 * @param work async (wish) → answer
 * @param show (answer, wish)
 * @param fail (error, wish)
 */
export class Latest {
  #busy = false;
  #next = null;

  constructor({ work, show, fail }) {
    this.work = work;
    this.show = show;
    this.fail = fail;
  }

  ask(wish) {
    this.#next = { wish };
    if (!this.#busy) this.#go();
  }

  /** Drop the wish that waits, and the answer that is on its way. */
  drop() {
    this.#next = null;
    this.dropped = true;
  }

  async #go() {
    this.#busy = true;
    while (this.#next) {
      const { wish } = this.#next;
      this.#next = null;
      this.dropped = false;
      try {
        const answer = await this.work(wish);
        if (!this.dropped) this.show(answer, wish);
      } catch (error) {
        if (!this.dropped && !this.#next) this.fail(error, wish);
      }
    }
    this.#busy = false;
  }
}
