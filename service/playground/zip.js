// The zip that the service answers with: PNGs, stored one after another. Format: PKWARE's APPNOTE 6.3.

const LOCAL = 0x04034b50; // begins each entry; the directory after the last begins otherwise

/** The entries of a zip without compression, in order: an array of PNG Blobs; throws for what is none. */
export function entries(buffer) {
  const view = new DataView(buffer);
  const images = [];
  if (view.getUint32(0, true) !== LOCAL) throw new Error("an answer that is not a zip");
  for (let at = 0; at + 30 <= buffer.byteLength && view.getUint32(at, true) === LOCAL; ) {
    const start = at + 30 + view.getUint16(at + 26, true) + view.getUint16(at + 28, true); // name, extra
    at = start + view.getUint32(at + 18, true);
    images.push(new Blob([buffer.slice(start, at)], { type: "image/png" }));
  }
  return images;
}
