// What goes wrong, said in words above the page; gone when the service answers again.

import { Trouble, setKey } from "./api.js";

const at = (id) => document.getElementById(id);
const waiting = new Map(); // who was refused → how to ask again
let timer = null;
let said = false; // words that no answer of the service takes back

/** Tell of an error that `who` met; `retry` is called by the button, after the error's wait, or with a new key. */
export function tell(error, who, retry) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Trouble)) throw error; // a fault of this page: for the console
  waiting.set(who, retry);
  show(error.title, error.message);
  at("key-form").hidden = error.kind !== "key";
  at("retry").hidden = error.kind === "key";
  if (error.wait !== null) {
    clearTimeout(timer);
    timer = setTimeout(again, error.wait);
  }
}

/** A few words about what the person did. */
export function say(title, text) {
  show(title, text);
  at("key-form").hidden = at("retry").hidden = true;
  said = true;
}

/** The service answered `who`. */
export function clear(who) {
  waiting.delete(who);
  if (!said && !waiting.size) at("notice").hidden = true;
}

/** The person did something else: words that were said are old. */
export function dismiss() {
  if (!said) return;
  said = false;
  at("notice").hidden = true;
}

function show(title, text) {
  said = false;
  if (!at("notice").hidden && at("notice-title").textContent === title && at("notice-text").textContent === text) return; // read aloud once
  at("notice-title").textContent = title;
  at("notice-text").textContent = text;
  at("notice").hidden = false;
}

function again() {
  clearTimeout(timer);
  const retries = [...waiting.values()];
  waiting.clear();
  for (const retry of retries) retry();
}

/** Listen to the button and the key's form. */
export function start() {
  at("retry").addEventListener("click", again);
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(at("key").value.trim());
    at("key").value = "";
    again();
  });
}
