// NumPy's .npy format, version 1.0, for the two dtypes that the service speaks: both ways.
// Format: numpy.lib.format. Arrays are flat typed arrays beside their shape.

const MAGIC = "\x93NUMPY";
const KINDS = { "|u1": Uint8Array, "<f4": Float32Array };

/** Uint8Array or Float32Array and its shape, as the bytes of an .npy file. */
export function encode(values, shape) {
  const descr = values instanceof Uint8Array ? "|u1" : "<f4";
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const about = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${tuple}), }`;
  const start = Math.ceil((10 + about.length + 1) / 64) * 64; // data begins at a multiple of 64
  const head = about.padEnd(start - 11) + "\n";
  const body = new Uint8Array(start + values.byteLength);
  body.set(Uint8Array.from(MAGIC, (c) => c.charCodeAt(0)));
  body.set([1, 0, head.length & 255, head.length >> 8], 6);
  body.set(new TextEncoder().encode(head), 10);
  body.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), start);
  return body;
}

/** The bytes of an .npy file (an ArrayBuffer) as { values, shape }; throws for what is none. */
export function decode(buffer) {
  const bytes = new Uint8Array(buffer);
  const magic = String.fromCharCode(...bytes.subarray(0, 6));
  if (magic !== MAGIC || bytes[6] !== 1) throw new Error("an answer that is not npy");
  const start = 10 + bytes[8] + 256 * bytes[9];
  const head = new TextDecoder().decode(bytes.subarray(10, start));
  const Kind = KINDS[/'descr': '(.*?)'/.exec(head)?.[1]];
  const shape = /'shape': \(([\d, ]*)\)/.exec(head)?.[1].split(",").filter((n) => n.trim()).map(Number);
  if (!Kind || !shape) throw new Error(`an npy header that is not understood: ${head.slice(0, 80)}`);
  return { values: new Kind(buffer.slice(start)), shape };
}
