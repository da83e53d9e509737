// The model card: the manifest, GET /model, for people.

import { element } from "./dom.js";

const figure = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : null);
const largest = (differences) => {
  const value = Math.max(...Object.values(differences ?? {}).filter(Number.isFinite));
  return Number.isFinite(value) ? value.toExponential(1) : null;
};

/** Write the card into a <dl>; facts that the manifest does not have are left out. */
export function show(place, manifest) {
  const { quality, parity, training } = manifest;
  const { settings, data } = training ?? {};
  const test = quality?.test;
  const [height, width, channels] = manifest.image_shape;
  const change = (name, digits, unit = "") => {
    const [before, after] = [test?.input, test?.output].map((side) => figure(side?.[name], digits));
    return before && after ? `${before} → ${after}${unit}` : null;
  };
  const rows = [
    ["Name", manifest.name],
    ["Images", `${height} × ${width}, ${channels === 1 ? "grey" : "colour"}`],
    ["Latents", `${manifest.latent_size} numbers per image`],
    ["Trained on", data?.counts?.train ? `${data.name ?? settings?.dataset}, ${data.counts.train.toLocaleString("en")} images` : settings?.dataset],
    ["Noise", settings?.noise],
    ["PSNR", change("psnr", 2, " dB"), test?.n && `noisy → denoised, mean of ${test.n.toLocaleString("en")} test images`],
    ["MSE", change("mse", 4)],
    ["SSIM", change("ssim", 3)],
    ["Parity", largest(parity?.largest_difference), parity?.comparisons && `largest difference from Keras in ${parity.comparisons} comparisons`],
    ["Parameters", quality?.parameters?.toLocaleString("en")],
    ["Created", manifest.created?.slice(0, 10), manifest.tools && `with ${Object.entries(manifest.tools).filter(([tool]) => ["keras", "onnxruntime"].includes(tool)).map((pair) => pair.join(" ")).join(", ")}`],
    ["Fingerprint", manifest.fingerprint, "Compare latents of the same fingerprint only."],
  ];
  place.replaceChildren(
    ...rows.filter(([, text]) => text).map(([title, text, hint]) => {
      const value = element("dd", { textContent: text });
      if (hint) value.append(element("small", { textContent: hint }));
      const className = title === "Fingerprint" ? "wide" : "";
      return element("div", { className }, element("dt", { textContent: title }), value);
    }),
  );
}
