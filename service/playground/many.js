// The panel for many pictures: what is dropped or chosen goes through `batch.js`.

import * as batch from "./batch.js";
import * as notice from "./notice.js";
import * as pictures from "./pictures.js";
import * as png from "./png.js";
import { DIGITS, draw } from "./samples.js";
import { ZipError } from "./zip.js";

const at = (id) => document.getElementById(id);

export class Many {
  #results = [];
  #stop = null;

  /** @param spoil (values, nth) → the picture as the sliders spoil it */
  constructor(spoil) {
    this.spoil = spoil;
    this.#listen();
  }

  /** The model is known; something is there to be seen. */
  async adopt(shape) {
    this.shape = shape;
    await this.samples();
  }

  /** The ten digits, spoiled. */
  async samples() {
    await this.#run(async () => {
      const canvas = pictures.surface(this.shape);
      const items = [];
      for (const digit of DIGITS.keys()) {
        draw(canvas, digit);
        const file = new Blob([await png.encode(pictures.read(canvas, this.shape[2]), this.shape)]);
        items.push({ name: `digit-${digit}.png`, open: async () => file });
      }
      return items;
    }, { spoiled: true, inverted: false });
  }

  async #files(gathering) {
    if (!this.shape) return;
    notice.dismiss();
    await this.#run(async () => batch.gather(await gathering), {
      spoiled: at("many-spoil").checked,
      inverted: at("many-invert").checked,
    });
  }

  /** List, denoise, show; a run that is under way is stopped. */
  async #run(list, { spoiled, inverted }) {
    this.#stop?.abort();
    const stop = (this.#stop = new AbortController());
    const signal = stop.signal;
    const again = () => this.#run(list, { spoiled, inverted });
    try {
      const items = await list();
      if (signal.aborted) return;
      if (!items.length) {
        notice.say("No pictures in there.", "Drop PNG, JPEG, WebP, GIF, AVIF or BMP files, a folder of them, or a zip.");
        return;
      }
      this.#begin(items.length);
      const prepare = (values, nth) => {
        const image = inverted ? values.map((value) => 255 - value) : values;
        return spoiled ? this.spoil(image, nth + 1) : image;
      };
      const skipped = [];
      const waits = (trouble) => notice.tell(trouble, this, () => {}); // it asks again by itself
      for await (const part of batch.denoise(items, { shape: this.shape, prepare, waits, signal })) {
        if (signal.aborted) return;
        this.#results.push(...part.results);
        skipped.push(...part.skipped);
        notice.clear(this);
        this.#progress(items.length, skipped);
        batch.show(at("grid"), part.results, this.shape);
      }
    } catch (error) {
      if (error instanceof ZipError) notice.say("That zip can not be read.", error.message);
      else if (!signal.aborted) notice.tell(error, this, again);
    } finally {
      if (this.#stop === stop) this.#end();
    }
  }

  #begin(count) {
    this.#results = [];
    at("grid").replaceChildren();
    at("many-progress").hidden = false;
    at("many-stop").hidden = false;
    at("many-download").hidden = true;
    at("many-bar").max = count;
    this.#progress(count, []);
  }

  #progress(count, skipped) {
    const done = this.#results.length;
    at("many-bar").value = done + skipped.length;
    at("many-count").textContent = `${done.toLocaleString("en")} of ${count.toLocaleString("en")} cleaned`;
    at("many-skipped").hidden = !skipped.length;
    at("many-skipped").textContent = `Left out: ${skipped.slice(0, 5).join(" ")}${skipped.length > 5 ? ` And ${skipped.length - 5} more.` : ""}`;
    const hidden = done - batch.SHOWN;
    at("many-more").hidden = hidden <= 0;
    at("many-more").textContent = `And ${hidden.toLocaleString("en")} more: all are in the download.`;
  }

  #end() {
    at("many-stop").hidden = true;
    at("many-download").hidden = !this.#results.length;
    at("many-done").textContent = at("many-count").textContent; // read aloud once, not at each batch
  }

  async #download() {
    const blob = await batch.download(this.#results, this.shape);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "clean.zip";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser is still reading it
  }

  #listen() {
    for (const id of ["many-files", "many-folder"]) {
      at(id).addEventListener("change", ({ target }) => {
        const files = batch.chosen(target.files);
        target.value = "";
        this.#files(files);
      });
    }
    at("many-drop").addEventListener("drop", (event) => this.#files(batch.dropped(event.dataTransfer)));
    at("many-samples").addEventListener("click", () => this.shape && this.samples());
    at("many-stop").addEventListener("click", () => {
      this.#stop?.abort();
      this.#end();
    });
    at("many-download").addEventListener("click", () => this.#download());
  }
}
