// Draw → add noise → denoise: the three panels.

import { Latest, run } from "./api.js";
import { drawable } from "./canvas.js";
import { at, element } from "./dom.js";
import * as images from "./images.js";
import * as noise from "./noise.js";
import * as notice from "./notice.js";
import { DIGITS, draw } from "./samples.js";

const CALM = 900; // ms without a change before the result is spoken

export class Stages {
  shape = [28, 28, 1]; // until the manifest is there
  novelty = null; // the manifest's novelty entry, where it has one
  ready = false; // the manifest is there
  seed = 1;
  trained = noise.parse();
  parts = noise.parse();
  #frame = 0;
  #speech = 0;

  /** @param shown ({ denoised, latents }) called with each result */
  constructor(shown) {
    this.shown = shown;
    this.drawing = at("drawing");
    this.requests = new Latest({
      work: (input) => this.#work(input),
      show: (result, input) => this.#show(result, input),
      fail: (error) => notice.report(error, this, () => this.changed()),
    });
    this.#listen();
    this.#makeSamples();
    this.#makeSliders();
    this.choose(3);
  }

  /** The model is known: its size, its noise, whether it has novelty scores. */
  adopt(manifest) {
    this.novelty = manifest.novelty?.[precision(manifest)] ?? null;
    this.trained = noise.parse(manifest.training?.settings?.noise);
    this.#set(structuredClone(this.trained));
    if (String(manifest.image_shape) !== String(this.shape)) {
      this.shape = manifest.image_shape;
      [this.drawing.height, this.drawing.width] = this.shape;
      this.#makeSamples();
      this.choose(3);
    }
    this.ready = true;
    this.changed();
  }

  /** An image with noise as the sliders are set; each `nth` has noise of its own. */
  addNoise(values, nth = 0) {
    return noise.addNoise(values, this.parts, { seed: this.seed + 101 * nth, shape: this.shape });
  }

  /** The drawing or the noise changed: show it and send it, once a frame. */
  changed() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      const clean = images.read(this.drawing, this.shape[2]);
      const noisy = this.addNoise(clean);
      images.paint(at("noisy"), noisy, this.shape);
      if (this.ready) this.requests.send({ clean, noisy });
    });
  }

  /** Start from one of the ten digits. */
  choose(digit) {
    draw(this.drawing, digit);
    this.#hint("");
    notice.dismiss();
    this.changed();
  }

  /** Start from a file, fitted to the model's size; for white paper, suggest to invert it. */
  async open(file) {
    let paper;
    try {
      paper = await images.fit(file, this.drawing);
    } catch {
      notice.say("The browser cannot read this file as an image.", `It is ${file.name || "without a name"}.`);
      return;
    }
    notice.dismiss();
    this.#hint(paper ? "The paper looks white, but the model expects light ink on black: invert it?" : "Fitted to the model's size.", paper);
    this.changed();
  }

  async #work({ noisy }) {
    const began = performance.now();
    const shape = [1, ...this.shape];
    const [denoised, latents] = await Promise.all([
      run(`denoise?dtype=float32${this.novelty ? "&score=true" : ""}`, noisy, shape),
      run("encode", noisy, shape),
    ]);
    return { denoised, latents: latents.values, time: performance.now() - began };
  }

  #show({ denoised, latents, time }, { clean, noisy }) {
    notice.clear(this);
    images.paint(at("clean"), denoised.values, this.shape);
    const [before, after] = [noisy, denoised.values].map((values) => images.mse(clean, values));
    const decibel = (error) => (error ? `${(-10 * Math.log10(error)).toFixed(1)} dB` : "∞");
    at("psnr").textContent = decibel(after);
    at("psnr-before").textContent = `noisy: ${decibel(before)}`;
    at("mse").textContent = after.toFixed(4);
    at("mse-before").textContent = `noisy: ${before.toFixed(4)}`;
    at("time").textContent = `${time.toFixed(time < 10 ? 1 : 0)} ms`;
    this.#showScore(denoised.scores?.[0]);
    clearTimeout(this.#speech);
    this.#speech = setTimeout(() => {
      at("spoken").textContent = `Denoised: from ${decibel(before)} to ${decibel(after)}.`;
    }, CALM);
    this.shown({ denoised: denoised.values, latents });
  }

  #showScore(score) {
    at("novelty").hidden = score === undefined;
    if (score === undefined) return;
    const novel = score > this.novelty.threshold;
    at("score").textContent = score.toFixed(2);
    at("score-words").textContent = novel ? "out of distribution" : "typical";
    at("novelty").classList.toggle("warning", novel);
  }

  #listen() {
    drawable(this.drawing, () => this.changed());
    for (const [id, ...colours] of [["clear", "#000"], ["invert", "#fff", "difference"]]) {
      at(id).addEventListener("click", () => {
        images.fill(this.drawing, ...colours);
        this.#hint("");
        this.changed();
      });
    }
    const open = (files) => files?.length && this.open(files[0]);
    at("upload").addEventListener("change", ({ target }) => {
      open(target.files);
      target.value = ""; // so that the same file can be chosen again
    });
    at("drop-zone").addEventListener("drop", (event) => open(event.dataTransfer.files));
    document.addEventListener("paste", (event) => open(event.clipboardData?.files));
    at("reseed").addEventListener("click", () => {
      this.seed += 1;
      this.changed();
    });
    at("trained").addEventListener("click", () => this.#set(structuredClone(this.trained)));
    at("quiet").addEventListener("click", () => this.#set(noise.quieted(this.parts)));
  }

  #set(parts) {
    this.parts = parts;
    this.#makeSliders();
    this.changed();
  }

  #hint(text, invert = false) {
    at("draw-hint").textContent = text || "Or drop or paste an image.";
    at("invert").classList.toggle("primary", invert);
  }

  #makeSamples() {
    at("samples").replaceChildren(
      ...DIGITS.map((_, digit) => {
        const canvas = images.surface(this.shape);
        draw(canvas, digit);
        const button = element("button", { type: "button", ariaLabel: `The digit ${digit}` }, canvas);
        button.addEventListener("click", () => this.choose(digit));
        return button;
      }),
    );
  }

  #makeSliders() {
    at("noise").replaceChildren(
      ...this.parts.flatMap(({ kind, values }) => {
        const { title, numbers } = noise.KINDS[kind];
        return numbers.map((number, i) => {
          const name = this.parts.length > 1 || numbers.length === 1 ? `${title}: ${number.name.toLowerCase()}` : number.name;
          const [min, max] = [Math.min(number.min, values[i]), Math.max(number.max, values[i])]; // as trained
          const input = element("input", { type: "range", min, max, step: number.step, value: values[i] });
          const output = element("output");
          const write = () => (output.textContent = values[i].toFixed(number.step < 1 ? 2 : 0));
          write();
          input.addEventListener("input", () => {
            values[i] = Number(input.value);
            write();
            this.changed();
          });
          return element("label", {}, element("span", { textContent: name }), input, output);
        });
      }),
    );
  }
}

/** The name of the precision that is served: the one that has the manifest's fingerprint. */
function precision({ precisions, fingerprint }) {
  return Object.keys(precisions ?? {}).find((name) => precisions[name].fingerprint === fingerprint) ?? "float32";
}
