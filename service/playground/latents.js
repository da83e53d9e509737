// The latents: bars, their decoded image, interpolation between two images, text to copy.

import { Latest, hasKey, run } from "./api.js";
import { Bars } from "./bars.js";
import { at } from "./dom.js";
import * as images from "./images.js";
import * as interpolation from "./interpolation.js";
import * as notice from "./notice.js";
import { DIGITS, draw } from "./samples.js";
import { snippet } from "./snippets.js";

const YOURS = "yours";
const COPIES = 8; // noisy copies of each digit; the mean of their latents stands for it

export class Latents {
  #digits = []; // Float32Array of latents for each of the ten
  #encoded = null; // Float32Array, the encoder's latents of the noisy image

  /** @param addNoise (values, nth) → the image with noise, as the sliders are set */
  constructor(addNoise) {
    this.addNoise = addNoise;
    this.bars = new Bars(at("bars"), () => this.#edited());
    this.kind = "json";
    this.decoder = this.#decodes((latents) => [latents, [1, latents.length]], (decoded) => {
      images.paint(at("decoded"), decoded, this.shape);
    });
    this.steps = this.#decodes(({ rows, size }) => [rows, [interpolation.STEPS, size]], (decoded, { rows, names }) => {
      const chosen = (latents) => {
        this.bars.show(latents);
        this.#edited({ interpolate: false });
      };
      interpolation.show(at("interpolation"), { images: decoded, latents: rows, shape: this.shape, names, chosen });
    });
    this.#listen();
  }

  /** The model is known: encode the ten digits, once. */
  async adopt(shape) {
    this.shape = shape;
    const canvas = images.surface(shape);
    const size = shape[0] * shape[1] * shape[2];
    const rows = new Uint8Array(DIGITS.length * COPIES * size);
    DIGITS.forEach((_, digit) => {
      draw(canvas, digit);
      const clean = images.read(canvas, shape[2]);
      for (let k = 0; k < COPIES; k++) rows.set(this.addNoise(clean, digit * COPIES + k), (digit * COPIES + k) * size);
    });
    const { values, shape: [, length] } = await run("encode", rows, [DIGITS.length * COPIES, ...shape]);
    this.#digits = DIGITS.map((_, digit) => {
      const mean = new Float32Array(length);
      for (let k = 0; k < COPIES; k++) mean.forEach((_, i) => (mean[i] += values[(digit * COPIES + k) * length + i] / COPIES));
      return mean;
    });
    for (const latents of this.#digits) this.bars.widen(latents);
    this.#interpolate();
  }

  /** A new image was encoded: its latents, and its decoded image, which is the denoised one. */
  show({ latents, denoised }) {
    this.#encoded = latents;
    this.decoder.drop();
    this.bars.show(latents);
    images.paint(at("decoded"), denoised, this.shape);
    this.#interpolate({ only: YOURS });
    this.#write();
  }

  #edited({ interpolate = true } = {}) {
    this.decoder.send(this.bars.values);
    if (interpolate) this.#interpolate({ only: YOURS });
    this.#write();
  }

  /** Decode the steps again; with `only`, just if that is one of the ends. */
  #interpolate({ only = null } = {}) {
    const ends = [at("from").value, at("to").value];
    if (only && !ends.includes(only)) return;
    const latents = ends.map((end) => (end === YOURS ? this.#encoded && this.bars.values : this.#digits[end]));
    if (!latents[0] || !latents[1]) return;
    const names = ends.map((end) => (end === YOURS ? "your image" : `the digit ${end}`));
    this.steps.send({ rows: interpolation.between(...latents), size: latents[0].length, names });
  }

  /** Requests to the decoder with `rows(input)`: [values, shape]. */
  #decodes(rows, show) {
    const requests = new Latest({
      work: (input) => run("decode", ...rows(input)),
      show: ({ values }, input) => {
        notice.clear(requests);
        show(values, input);
      },
      fail: (error, input) => notice.report(error, requests, () => requests.send(input)),
    });
    return requests;
  }

  #write() {
    const base = new URL(".", document.baseURI).href;
    at("snippet").textContent = snippet(this.kind, this.bars.values, { base, keyed: hasKey() });
  }

  #listen() {
    for (const [id, chosen] of [["from", YOURS], ["to", "8"]]) {
      at(id).append(new Option("your image", YOURS), ...DIGITS.map((_, digit) => new Option(`the digit ${digit}`, digit)));
      at(id).value = chosen;
      at(id).addEventListener("change", () => this.#interpolate());
    }
    at("restore").addEventListener("click", () => {
      if (!this.#encoded) return;
      this.bars.show(this.#encoded);
      this.#edited();
    });
    const kinds = [...document.querySelectorAll("[data-snippet]")];
    for (const button of kinds) {
      button.addEventListener("click", () => {
        this.kind = button.dataset.snippet;
        for (const other of kinds) other.ariaPressed = other === button;
        this.#write();
      });
    }
    at("copy").addEventListener("click", async () => {
      // Undefined over http from another host; refused where the browser does not allow it.
      const done = await navigator.clipboard?.writeText(at("snippet").textContent).then(() => true, () => false);
      if (!done) getSelection().selectAllChildren(at("snippet"));
      at("copied").textContent = done ? "Copied." : "Selected: copy it with your keyboard.";
      setTimeout(() => (at("copied").textContent = ""), 3000);
    });
  }
}
