// Many images: files and folders as one form of PNGs, denoised by one request into one zip.

import { denoiseForm } from "./api.js";
import { at, element } from "./dom.js";
import * as images from "./images.js";
import * as notice from "./notice.js";
import { DIGITS, draw } from "./samples.js";

const LIMITS = { files: 10_000, bytes: 48 * 2 ** 20 }; // of one form; the service's own limit is 64 MiB
const SHOWN = 120; // pairs in the grid; all are in the download

const isImage = (name) => /\.(png|jpe?g|gif|webp|avif|bmp)$/i.test(name) && !/(^|\/)\./.test(name);

export class Many {
  #stop = null; // AbortController of the run that is under way

  /** @param addNoise (values, nth) → the image with noise, as the sliders are set */
  constructor(addNoise) {
    this.addNoise = addNoise;
    this.#listen();
  }

  /** The model is known: start with the ten digits. */
  async adopt(shape) {
    this.shape = shape;
    await this.#samples();
  }

  async #samples() {
    const items = DIGITS.map((_, digit) => ({ name: `digit-${digit}`, drawOn: (canvas) => draw(canvas, digit) }));
    await this.#run(items, { noisy: true, inverted: false });
  }

  async #files(listing) {
    if (!this.shape) return;
    notice.dismiss();
    const files = (await listing).filter(({ name }) => isImage(name));
    if (!files.length) return notice.say("No images there.", "Choose PNG, JPEG, WebP, GIF, AVIF or BMP files, or a folder of them; unpack a zip first.");
    const items = files.map(({ name, file }) => ({ name, drawOn: (canvas) => images.fit(file, canvas) }));
    await this.#run(items, { noisy: at("many-noise").checked, inverted: at("many-invert").checked });
  }

  /** Prepare, send, show; a run that is under way is stopped. */
  async #run(items, options) {
    this.#stop?.abort();
    const { signal } = (this.#stop = new AbortController());
    at("grid").replaceChildren();
    at("many-progress").hidden = at("many-stop").hidden = false;
    for (const id of ["many-download", "many-skipped", "many-more"]) at(id).hidden = true;
    Object.assign(at("many-bar"), { max: items.length, value: 0 });
    const prepared = await this.#prepare(items, options, signal);
    if (prepared) await this.#send(prepared, items.length, signal);
  }

  /** Fit each image to the model and put it into the form as a PNG: { form, skipped }. */
  async #prepare(items, { noisy, inverted }, signal) {
    const canvas = new OffscreenCanvas(this.shape[1], this.shape[0]);
    const form = new FormData();
    const skipped = [];
    let bytes = 0;
    for (const [nth, { name, drawOn }] of items.entries()) {
      if (nth === LIMITS.files || bytes > LIMITS.bytes) {
        skipped.push(`${items.length - nth} more than one request holds`);
        break;
      }
      try {
        await drawOn(canvas);
        let values = images.read(canvas, this.shape[2]);
        if (inverted) values = values.map((value) => 255 - value);
        if (noisy) values = this.addNoise(values, nth + 1);
        images.paint(canvas, values, this.shape);
        const png = await canvas.convertToBlob();
        bytes += png.size;
        form.append("images", png, name.replaceAll("/", "_")); // the zip has no folders
      } catch {
        skipped.push(`${name}, which cannot be read`);
      }
      if (signal.aborted) return null;
      at("many-bar").value = nth + 1;
      at("many-count").textContent = `Preparing ${nth + 1} of ${items.length.toLocaleString("en")}`;
    }
    return { form, skipped };
  }

  async #send({ form, skipped }, total, signal) {
    const noisy = form.getAll("images");
    at("many-count").textContent = `Denoising ${noisy.length.toLocaleString("en")} images`;
    at("many-skipped").hidden = !skipped.length;
    at("many-skipped").textContent = `Left out: ${skipped.slice(0, 5).join("; ")}${skipped.length > 5 ? `; and ${skipped.length - 5} more` : ""}.`;
    try {
      const { clean, zip } = noisy.length ? await denoiseForm(form, signal) : { clean: [], zip: null };
      if (signal.aborted) return;
      notice.clear(this);
      at("many-count").textContent = `${clean.length.toLocaleString("en")} of ${total.toLocaleString("en")} denoised`;
      await this.#show(noisy, clean, signal);
      if (!signal.aborted) this.#end(zip);
    } catch (error) {
      if (!signal.aborted) notice.report(error, this, () => this.#send({ form, skipped }, total, signal));
    }
  }

  /** Pairs for the grid, up to SHOWN of them. */
  async #show(noisy, clean, signal) {
    for (let i = 0; i < Math.min(clean.length, SHOWN); i++) {
      const pair = element("li");
      for (const [png, kind] of [[noisy[i], "noisy"], [clean[i], "denoised"]]) {
        const canvas = images.surface(this.shape);
        Object.assign(canvas, { role: "img", ariaLabel: `${noisy[i].name}, ${kind}` });
        await images.fit(png, canvas);
        pair.append(canvas);
      }
      pair.append(element("span", { textContent: noisy[i].name, title: noisy[i].name }));
      if (signal.aborted) return;
      at("grid").append(pair);
    }
    at("many-more").hidden = clean.length <= SHOWN;
    at("many-more").textContent = `And ${(clean.length - SHOWN).toLocaleString("en")} more: all are in the download.`;
  }

  #end(zip) {
    at("many-stop").hidden = true;
    at("many-done").textContent = at("many-count").textContent; // read aloud once
    at("many-download").hidden = !zip;
    URL.revokeObjectURL(at("many-download").href);
    if (zip) at("many-download").href = URL.createObjectURL(zip);
  }

  #listen() {
    for (const id of ["many-files", "many-folder"]) {
      at(id).addEventListener("change", ({ target }) => {
        this.#files(chosen(target.files));
        target.value = "";
      });
    }
    at("many-drop").addEventListener("drop", (event) => this.#files(dropped(event.dataTransfer)));
    at("many-samples").addEventListener("click", () => this.shape && this.#samples());
    at("many-stop").addEventListener("click", () => {
      this.#stop?.abort();
      notice.clear(this);
      at("many-count").textContent = "Stopped";
      this.#end(null);
    });
  }
}

/** The files of an <input>: [{ name, file }]. */
function chosen(files) {
  return [...files].map((file) => ({ name: file.webkitRelativePath || file.name, file }));
}

/** The files of a drop, with those in its folders: [{ name, file }]. */
async function dropped(transfer) {
  // The list is read at once: it is empty after the event.
  const roots = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!roots.length) return chosen(transfer.files);
  const files = [];
  const visit = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      return files.push({ name: entry.fullPath.replace(/^\//, ""), file });
    }
    const reader = entry.createReader();
    const read = () => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    for (let part = await read(); part.length; part = await read()) { // a hundred at a time
      for (const inner of part) await visit(inner);
    }
  };
  for (const root of roots) await visit(root);
  return files.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
}
