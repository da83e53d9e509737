// Inside: the latent numbers, what the decoder makes of them, a walk between two, and lines to copy.

import { Latest, hasKey, run } from "./api.js";
import { Bars } from "./latents.js";
import * as notice from "./notice.js";
import * as pictures from "./pictures.js";
import { DIGITS, draw } from "./samples.js";
import { copy, snippet } from "./snippets.js";
import * as walk from "./walk.js";

const at = (id) => document.getElementById(id);
const YOURS = "yours";
const DRAWS = 8; // spoiled copies of each digit, whose mean latents stand for it in the walk

export class Inside {
  #digits = []; // Float32Array of latents for each of the ten
  #picture = null; // Float32Array, the encoder's own latents of the picture

  /** @param spoil (values, nth) → the picture as the sliders spoil it */
  constructor(spoil) {
    this.spoil = spoil;
    this.bars = new Bars(at("bars"), () => this.#edited());
    this.kind = "json";
    this.decoder = this.#asker((latents) => [latents, [1, latents.length]], (images) => {
      pictures.paint(at("decoded"), images, this.shape);
    });
    this.walker = this.#asker(({ rows, size }) => [rows, [walk.STEPS, size]], (images, { rows, names }) => {
      const chosen = (latents) => {
        this.bars.show(latents);
        this.#edited({ walk: false });
      };
      walk.show(at("walk"), { images, latents: rows, shape: this.shape, names, chosen });
    });
    this.#listen();
  }

  /** The model is known: encode the ten digits, once. */
  async adopt(shape) {
    this.shape = shape;
    const canvas = pictures.surface(shape);
    const size = shape[0] * shape[1] * shape[2];
    const rows = new Uint8Array(DIGITS.length * DRAWS * size);
    DIGITS.forEach((_, digit) => {
      draw(canvas, digit);
      const clean = pictures.read(canvas, shape[2]);
      for (let k = 0; k < DRAWS; k++) rows.set(this.spoil(clean, digit * DRAWS + k), (digit * DRAWS + k) * size);
    });
    const { values, shape: [, length] } = await run("encode", rows, [DIGITS.length * DRAWS, ...shape]);
    this.#digits = DIGITS.map((_, digit) => {
      const mean = new Float32Array(length);
      for (let k = 0; k < DRAWS; k++) mean.forEach((_, i) => (mean[i] += values[(digit * DRAWS + k) * length + i] / DRAWS));
      return mean;
    });
    for (const latents of this.#digits) this.bars.widen(latents);
    this.#walk();
  }

  /** A new picture was encoded: its latents, and its decoded image, which is the denoised one. */
  arrived({ latents, denoised }) {
    this.#picture = latents;
    this.decoder.drop();
    this.bars.show(latents);
    pictures.paint(at("decoded"), denoised, this.shape);
    this.#walk({ only: YOURS });
    this.#write();
  }

  #edited({ walk: follow = true } = {}) {
    this.decoder.ask(this.bars.values);
    if (follow) this.#walk({ only: YOURS });
    this.#write();
  }

  /** Decode the strip again; with `only`, just if that is one of its ends. */
  #walk({ only = null } = {}) {
    const ends = [at("from").value, at("to").value];
    if (only && !ends.includes(only)) return;
    const latents = ends.map((end) => (end === YOURS ? this.#picture && this.bars.values : this.#digits[end]));
    if (!latents[0] || !latents[1]) return;
    const names = ends.map((end) => (end === YOURS ? "your picture" : `the digit ${end}`));
    this.walker.ask({ rows: walk.between(...latents), size: latents[0].length, names });
  }

  /** Runs the decoder on what `rows(wish)` gives: [values, shape]. */
  #asker(rows, show) {
    const asker = new Latest({
      work: (wish) => run("decode", ...rows(wish)),
      show: ({ values }, wish) => {
        notice.clear(asker);
        show(values, wish);
      },
      fail: (error, wish) => notice.tell(error, asker, () => asker.ask(wish)),
    });
    return asker;
  }

  #write() {
    const base = new URL(".", document.baseURI).href;
    at("snippet").textContent = snippet(this.kind, this.bars.values, { base, keyed: hasKey() });
  }

  #listen() {
    for (const [id, chosen] of [["from", YOURS], ["to", "8"]]) {
      at(id).append(new Option("your picture", YOURS), ...DIGITS.map((_, digit) => new Option(`the digit ${digit}`, digit)));
      at(id).value = chosen;
      at(id).addEventListener("change", () => this.#walk());
    }
    at("restore").addEventListener("click", () => {
      if (!this.#picture) return;
      this.bars.show(this.#picture);
      this.#edited();
    });
    const kinds = [...document.querySelectorAll("[data-snippet]")];
    for (const button of kinds) {
      button.addEventListener("click", () => {
        this.kind = button.dataset.snippet;
        for (const other of kinds) other.setAttribute("aria-pressed", other === button);
        this.#write();
      });
    }
    at("copy").addEventListener("click", async () => {
      const done = await copy(at("snippet").textContent);
      if (!done) getSelection().selectAllChildren(at("snippet"));
      at("copied").textContent = done ? "Copied." : "Selected: copy it with your keyboard.";
      setTimeout(() => (at("copied").textContent = ""), 3000);
    });
  }
}
