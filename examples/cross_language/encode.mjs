// The latent of one PNG by fetch: its JSON, then the model's fingerprint. Node 18 or newer, no packages.
//     node examples/cross_language/encode.mjs examples/noisy.png http://127.0.0.1:3000
import { readFile } from "node:fs/promises";
import { argv, exit } from "node:process";

const [image, url = "http://127.0.0.1:3000"] = argv.slice(2);

/** PNG bytes → { latent: Float32Array(16), fingerprint: string }; a refusal is an Error. */
async function encode(png) {
  // base64 of the float32 bytes: a third of the size of decimals.
  const response = await fetch(`${url}/encode?encoding=base64`, {
    method: "POST",
    headers: { "Content-Type": "image/png", Accept: "application/json" },
    body: png,
    signal: AbortSignal.timeout(60_000),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${response.status}: ${answer.detail}`);
  const bytes = Uint8Array.from(atob(answer.latents[0]), (letter) => letter.charCodeAt(0));
  return {
    latent: new Float32Array(bytes.buffer), // little-endian, as are all machines that run Node
    fingerprint: response.headers.get("X-Model-Fingerprint"),
  };
}

try {
  const { latent, fingerprint } = await encode(await readFile(image));
  console.log(JSON.stringify({ latents: [Array.from(latent)] }));
  console.log(fingerprint);
} catch (error) {
  console.error(`encode: ${error.message}`);
  exit(1);
}
