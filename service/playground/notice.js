// Errors in words above the page; hidden when the service answers again.

import { ServiceError, setKey } from "./api.js";
import { at } from "./dom.js";

const waiting = new Map(); // source of an error → how to try again
let timer = null;
let informed = false; // the words shown are no error of the service

/** Show an error of `source`; `retry` is called by the button, after the error's wait, or with a new key. */
export function report(error, source, retry) {
  if (error.name === "AbortError") return;
  if (!(error instanceof ServiceError)) throw error; // a bug of this page: for the console
  waiting.set(source, retry);
  show(error.title, error.message);
  at("key-form").hidden = error.kind !== "key";
  at("retry").hidden = error.kind === "key";
  if (error.wait !== null) {
    clearTimeout(timer);
    timer = setTimeout(again, error.wait);
  }
}

/** Words that are no error of the service. */
export function say(title, text) {
  show(title, text);
  at("key-form").hidden = at("retry").hidden = true;
  informed = true;
}

/** The service answered `source`. */
export function clear(source) {
  waiting.delete(source);
  if (!informed && !waiting.size) at("notice").hidden = true;
}

/** Hide words of `say`: the user went on. */
export function dismiss() {
  if (!informed) return;
  informed = false;
  at("notice").hidden = true;
}

function show(title, text) {
  informed = false;
  const [head, body] = [at("notice-title"), at("notice-text")];
  if (!at("notice").hidden && head.textContent === title && body.textContent === text) return; // read aloud once
  [head.textContent, body.textContent] = [title, text];
  at("notice").hidden = false;
}

function again() {
  clearTimeout(timer);
  const retries = [...waiting.values()];
  waiting.clear();
  for (const retry of retries) retry();
}

/** Listen to the button and the form for the key. */
export function start() {
  at("retry").addEventListener("click", again);
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(at("key").value.trim());
    at("key").value = "";
    again();
  });
}
