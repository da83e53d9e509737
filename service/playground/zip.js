// Zip files: a reader for stored and deflated entries, under limits, and a writer that stores.
//
// Format: PKWARE's APPNOTE 6.3, without encryption, several disks and zip64.

import { checksum } from "./checksum.js";

const END = 0x06054b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;
const EPOCH = 0x0021; // 1980-01-01, the first date that the format has

export const LIMITS = { entries: 50_000, entry: 64 * 2 ** 20, total: 2 ** 30 };

/** A zip that can not be read; the message says why, in words. */
export class ZipError extends Error {}

/**
 * The files of a zip that are wanted, each to be unpacked when it is needed: { name, open }.
 *
 * @param wanted (name) → whether that entry is one
 */
export async function list(blob, wanted = () => true, limits = LIMITS) {
  if (blob.size > limits.total) throw new ZipError("The zip is larger than a gigabyte.");
  const view = new DataView(await blob.arrayBuffer());
  const found = [...directory(view, limits)].filter(({ name }) => !name.endsWith("/") && wanted(name));
  if (found.reduce((sum, { size }) => sum + size, 0) > limits.total) {
    throw new ZipError("The zip holds more than a gigabyte.");
  }
  for (const { name, flags, size } of found) {
    if (flags & 1) throw new ZipError(`${name} in the zip is encrypted.`);
    if (size > limits.entry) throw new ZipError(`${name} in the zip is too large.`);
  }
  return found.map((entry) => ({
    name: entry.name,
    open: async () => new Blob([await content(view, entry)]),
  }));
}

function* directory(view, limits) {
  const end = findEnd(view);
  const count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  if (count === 0xffff || at === 0xffffffff) throw new ZipError("Zips in the zip64 form are not read.");
  if (count > limits.entries) throw new ZipError(`The zip has more than ${limits.entries} files.`);
  for (let i = 0; i < count; i++) {
    if (at + 46 > view.byteLength || view.getUint32(at, true) !== CENTRAL) throw new ZipError("The zip is damaged.");
    const [nameLength, extraLength, noteLength] = [28, 30, 32].map((k) => view.getUint16(at + k, true));
    if (at + 46 + nameLength > view.byteLength) throw new ZipError("The zip is damaged.");
    yield {
      name: new TextDecoder().decode(new Uint8Array(view.buffer, at + 46, nameLength)),
      flags: view.getUint16(at + 8, true),
      method: view.getUint16(at + 10, true),
      crc: view.getUint32(at + 16, true),
      packed: view.getUint32(at + 20, true),
      size: view.getUint32(at + 24, true),
      local: view.getUint32(at + 42, true),
    };
    at += 46 + nameLength + extraLength + noteLength;
  }
}

function findEnd(view) {
  const last = view.byteLength - 22;
  for (let at = last; at >= Math.max(0, last - 0xffff); at--) { // a comment may follow
    if (view.getUint32(at, true) === END) return at;
  }
  throw new ZipError("That is not a whole zip.");
}

async function content(view, { name, method, crc, packed, size, local }) {
  if (local + 30 > view.byteLength || view.getUint32(local, true) !== LOCAL) throw new ZipError("The zip is damaged.");
  const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
  if (start + packed > view.byteLength) throw new ZipError("The zip is cut short.");
  const raw = new Uint8Array(view.buffer, start, packed);
  let bytes;
  if (method === 0) bytes = raw;
  else if (method === 8) bytes = await inflate(raw, size, name);
  else throw new ZipError(`${name} in the zip is packed in a way that is not read.`);
  if (bytes.length !== size || checksum(bytes) !== crc) throw new ZipError(`${name} in the zip is damaged.`);
  return bytes;
}

/** Unpack exactly `size` bytes; no more is ever kept, whatever the stream goes on to say. */
async function inflate(raw, size, name) {
  const bytes = new Uint8Array(size);
  let at = 0;
  const reader = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (at + part.value.length > size) throw new ZipError(`${name} in the zip is larger than it says.`);
      bytes.set(part.value, at);
      at += part.value.length;
    }
  } catch (error) {
    reader.cancel().catch(() => {});
    throw error instanceof ZipError ? error : new ZipError(`${name} in the zip is damaged.`);
  }
  if (at !== size) throw new ZipError(`${name} in the zip is cut short.`);
  return bytes;
}

/** A zip, as a Blob, of files { name, bytes: Uint8Array }; names are made unique. */
export function pack(files) {
  const parts = [];
  const index = [];
  const taken = new Set();
  let at = 0;
  for (const { name, bytes } of files) {
    const path = new TextEncoder().encode(unique(name, taken));
    const facts = new DataView(new ArrayBuffer(26)); // what both headers say, from "version" on
    [20, 0x0800, 0, 0, EPOCH].forEach((value, i) => facts.setUint16(2 * i, value, true)); // UTF-8
    [checksum(bytes), bytes.length, bytes.length].forEach((value, i) => facts.setUint32(10 + 4 * i, value, true));
    facts.setUint16(22, path.length, true);
    parts.push(number(LOCAL, 4), facts.buffer, path, bytes);
    index.push(number(CENTRAL, 4), number(20, 2), facts.buffer, new Uint8Array(10), number(at, 4), path);
    at += 30 + path.length + bytes.length;
  }
  const size = index.reduce((sum, part) => sum + part.byteLength, 0);
  const end = [number(END, 4), number(0, 4), number(files.length, 2), number(files.length, 2), number(size, 4), number(at, 4), number(0, 2)];
  return new Blob([...parts, ...index, ...end], { type: "application/zip" });
}

function unique(name, taken) {
  const safe = name.replaceAll("\\", "/").split("/").filter((part) => part && part !== "." && part !== "..").join("/");
  const [, stem, dot] = /^(.*?)(\.[^./]*)?$/s.exec(safe || "picture.png");
  let found = safe || "picture.png";
  for (let i = 2; taken.has(found.toLowerCase()); i++) found = `${stem}-${i}${dot ?? ""}`;
  taken.add(found.toLowerCase());
  return found;
}

function number(value, bytes) {
  const view = new DataView(new ArrayBuffer(bytes));
  if (bytes === 4) view.setUint32(0, value, true);
  else view.setUint16(0, value, true);
  return view.buffer;
}
