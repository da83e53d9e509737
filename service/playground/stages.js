// Draw → spoil → clean: the three panels, and what passes between them.

import { Latest, run } from "./api.js";
import * as ink from "./canvas.js";
import * as noise from "./noise.js";
import * as notice from "./notice.js";
import * as pictures from "./pictures.js";
import { DIGITS, draw } from "./samples.js";

const at = (id) => document.getElementById(id);
const CALM = 900; // ms without a change before the result is spoken

export class Stages {
  shape = [28, 28, 1]; // until the model says more
  novelty = null; // how the bundle's scores were made, where it has them
  ready = false; // to ask the service
  seed = 1;
  trained = noise.parse();
  parts = noise.parse();
  #frame = 0;
  #speech = 0;

  /** @param cleaned ({ denoised, latents }) told of each answer */
  constructor(cleaned) {
    this.cleaned = cleaned;
    this.drawing = at("drawing");
    this.asker = new Latest({
      work: (wish) => this.#work(wish),
      show: (answer, wish) => this.#show(answer, wish),
      fail: (error) => notice.tell(error, this, () => this.changed()),
    });
    this.#listen();
    this.#makeSamples();
    this.#makeSliders();
    this.choose(3, { quietly: true });
  }

  /** The model is known: its size, its noise, whether it scores. */
  adopt(manifest) {
    this.novelty = manifest.novelty?.[precision(manifest)] ?? null;
    this.trained = noise.parse(manifest.training?.settings?.noise);
    this.parts = structuredClone(this.trained);
    this.#makeSliders();
    if (String(manifest.image_shape) !== String(this.shape)) {
      this.shape = manifest.image_shape;
      [this.drawing.height, this.drawing.width] = this.shape;
      this.#makeSamples();
      this.choose(3, { quietly: true });
    }
    this.ready = true;
    this.changed();
  }

  /** A picture with the noise of the sliders; `nth` gives each of many its own. */
  spoil(values, nth = 0) {
    return noise.spoil(values, this.parts, { seed: this.seed + 101 * nth, shape: this.shape });
  }

  /** The picture or the noise is another: show it, and ask, once a frame. */
  changed() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      const clean = pictures.read(this.drawing, this.shape[2]);
      const noisy = this.spoil(clean);
      pictures.paint(at("noisy"), noisy, this.shape);
      if (this.ready) this.asker.ask({ clean, noisy });
    });
  }

  /** Start from one of the ten digits. */
  choose(digit, { quietly = false } = {}) {
    draw(this.drawing, digit);
    this.#told("");
    if (!quietly) notice.dismiss();
    this.changed();
  }

  /** Start from a file, fitted to the model's size; white paper is noticed. */
  async open(file) {
    let paper;
    try {
      paper = await pictures.fit(file, this.drawing);
    } catch {
      notice.say("That is no picture that this browser can read.", `It was ${file.name || "a file"}.`);
      return;
    }
    notice.dismiss();
    this.#told(paper ? "The paper looks white, and the model expects light ink on black: invert it?" : "Fitted to the model's size.", paper);
    this.changed();
  }

  async #work({ noisy }) {
    const began = performance.now();
    const shape = [1, ...this.shape];
    const [denoised, latents] = await Promise.all([
      run("denoise", noisy, shape, { dtype: "float32", score: this.novelty !== null }),
      run("encode", noisy, shape),
    ]);
    return { denoised, latents: latents.values, time: performance.now() - began };
  }

  #show({ denoised, latents, time }, { clean, noisy }) {
    notice.clear(this);
    pictures.paint(at("clean"), denoised.values, this.shape);
    const [before, after] = [noisy, denoised.values].map((values) => pictures.mse(clean, values));
    const decibel = (error) => (error ? `${pictures.psnr(error).toFixed(1)} dB` : "∞");
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
    this.cleaned({ denoised: denoised.values, latents });
  }

  #showScore(score) {
    at("novelty").hidden = score === undefined;
    if (score === undefined) return;
    const unusual = score > this.novelty.threshold;
    at("score").textContent = score.toFixed(2);
    at("score-words").textContent = unusual ? "unlike its training" : "like its training";
    at("novelty").classList.toggle("warning", unusual);
  }

  #listen() {
    ink.drawable(this.drawing, () => this.changed());
    at("clear").addEventListener("click", () => {
      ink.clear(this.drawing);
      this.#told("");
      this.changed();
    });
    at("invert").addEventListener("click", () => {
      ink.invert(this.drawing);
      this.#told("");
      this.changed();
    });
    at("upload").addEventListener("change", ({ target }) => {
      if (target.files.length) this.open(target.files[0]);
      target.value = ""; // so that the same file may come again
    });
    at("drop-zone").addEventListener("drop", (event) => {
      const [file] = event.dataTransfer.files;
      if (file) this.open(file);
    });
    document.addEventListener("paste", (event) => {
      const [file] = event.clipboardData?.files ?? [];
      if (file) this.open(file);
    });
    at("reseed").addEventListener("click", () => {
      this.seed = (this.seed % 1_000_000) + 1;
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

  #told(text, invert = false) {
    at("draw-hint").textContent = text || "Or drop or paste a picture.";
    at("invert").classList.toggle("primary", invert);
  }

  #makeSamples() {
    at("samples").replaceChildren(
      ...DIGITS.map((_, digit) => {
        const button = document.createElement("button");
        button.type = "button";
        button.setAttribute("aria-label", `The digit ${digit}`);
        const canvas = pictures.surface(this.shape);
        draw(canvas, digit);
        button.append(canvas);
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
          const label = document.createElement("label");
          const name = document.createElement("span");
          name.textContent = this.parts.length > 1 || numbers.length === 1 ? `${title}: ${number.name.toLowerCase()}` : number.name;
          const input = document.createElement("input");
          const [min, max] = [Math.min(number.min, values[i]), Math.max(number.max, values[i])]; // as trained
          Object.assign(input, { type: "range", min, max, step: number.step, value: values[i] });
          const told = document.createElement("output");
          const tell = () => {
            told.textContent = values[i].toFixed(number.step < 1 ? 2 : 0);
          };
          tell();
          input.addEventListener("input", () => {
            values[i] = Number(input.value);
            tell();
            this.changed();
          });
          label.append(name, input, told);
          return label;
        });
      }),
    );
  }
}

/** The name of the precision that answers: the manifest shows that one's fingerprint. */
function precision({ precisions, fingerprint }) {
  return Object.keys(precisions ?? {}).find((name) => precisions[name].fingerprint === fingerprint) ?? "float32";
}
