// Many pictures: out of folders, zips and file dialogs, through the service in batches, into a grid
// and a zip.

import { Trouble, run } from "./api.js";
import * as pictures from "./pictures.js";
import * as png from "./png.js";
import * as zip from "./zip.js";

const BATCH = 64; // pictures in one request
export const SHOWN = 120; // pairs in the grid; all are in the download
const TRIES = 8; // of one batch, while the service is busy or away

const isPicture = (name) => /\.(png|jpe?g|gif|webp|avif|bmp)$/i.test(name) && !/(^|\/)(\.|__MACOSX\/)/.test(name);
const isZip = (name) => /\.zip$/i.test(name);

/** What came, as { name, open } with open() → Blob: files as they are, zips looked into. */
export async function gather(files) {
  const found = [];
  for (const { name, file } of files) {
    if (isZip(name)) found.push(...(await zip.list(file, isPicture)));
    else if (isPicture(name)) found.push({ name, open: async () => file });
  }
  return found.slice(0, zip.LIMITS.entries);
}

/** The files of a drop, with those in its folders: [{ name, file }]. */
export async function dropped(transfer) {
  const roots = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean); // at once: a drop is soon forgotten
  if (!roots.length) return chosen(transfer.files);
  const found = [];
  const visit = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      found.push({ name: entry.fullPath.replace(/^\//, ""), file });
      return;
    }
    const reader = entry.createReader();
    const more = () => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    for (let part = await more(); part.length; part = await more()) { // a hundred at a time
      for (const inner of part) await visit(inner);
    }
  };
  for (const root of roots) await visit(root);
  return found.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
}

/** The files of an <input>: [{ name, file }]. */
export function chosen(files) {
  return [...files].map((file) => ({ name: file.webkitRelativePath || file.name, file }));
}

/**
 * Denoise them all, in batches; yields { results, skipped } after each one.
 *
 * @param items [{ name, open }]
 * @param shape [height, width, channels]
 * @param prepare (Uint8Array, index) → the image to send
 * @param waits (Trouble) told while the service is busy or away
 */
export async function* denoise(items, { shape, prepare, waits, signal }) {
  const size = shape[0] * shape[1] * shape[2];
  const canvas = pictures.surface(shape);
  for (let start = 0; start < items.length; start += BATCH) {
    const names = [];
    const skipped = [];
    const rows = new Uint8Array(Math.min(BATCH, items.length - start) * size);
    for (const [offset, { name, open }] of items.slice(start, start + BATCH).entries()) {
      signal.throwIfAborted();
      try {
        await pictures.fit(await open(), canvas);
      } catch (error) {
        skipped.push(error instanceof zip.ZipError ? error.message : `${name} can not be read.`);
        continue;
      }
      rows.set(prepare(pictures.read(canvas, shape[2]), start + offset), names.length * size);
      names.push(name);
    }
    const sent = rows.subarray(0, names.length * size);
    const answer = names.length ? await patiently(sent, [names.length, ...shape], { waits, signal }) : { values: sent };
    const results = names.map((name, i) => ({
      name,
      noisy: sent.subarray(i * size, (i + 1) * size),
      clean: answer.values.subarray(i * size, (i + 1) * size),
    }));
    yield { results, skipped };
  }
}

async function patiently(rows, shape, { waits, signal }) {
  for (let tries = 1; ; tries++) {
    try {
      return await run("denoise", rows, shape, { signal });
    } catch (error) {
      if (!(error instanceof Trouble) || error.wait === null || tries === TRIES) throw error;
      waits(error);
      await new Promise((resolve) => setTimeout(resolve, error.wait));
      signal.throwIfAborted();
    }
  }
}

/** Add pairs to the grid, up to SHOWN of them; returns how many are shown. */
export function show(grid, results, shape) {
  for (const { name, noisy, clean } of results) {
    if (grid.childElementCount >= SHOWN) break;
    const pair = document.createElement("li");
    for (const [values, what] of [[noisy, "noisy"], [clean, "clean"]]) {
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${name}, ${what}`);
      pictures.paint(canvas, values, shape);
      pair.append(canvas);
    }
    const caption = document.createElement("span");
    caption.textContent = name.split("/").pop();
    caption.title = name;
    pair.append(caption);
    grid.append(pair);
  }
  return grid.childElementCount;
}

/** All clean pictures as a zip of PNGs, a Blob. */
export async function download(results, shape) {
  const files = [];
  for (const { name, clean } of results) {
    files.push({ name: name.replace(/\.[^./]*$/, "") + ".png", bytes: await png.encode(clean, shape) });
  }
  return zip.pack(files);
}
