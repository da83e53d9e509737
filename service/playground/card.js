// The model's card: what GET /model says, for people.

const figure = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : null);
const largest = (differences) => {
  const most = Math.max(...Object.values(differences ?? {}).filter(Number.isFinite));
  return Number.isFinite(most) ? most.toExponential(1) : null;
};

/** Rows of [title, text, hint] for what the manifest knows; the rest is left out. */
export function facts(manifest) {
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
    ["Pictures", `${height} × ${width}, ${channels === 1 ? "grey" : "colour"}`],
    ["Latents", `${manifest.latent_size} numbers each`],
    ["Trained on", data?.counts?.train ? `${data.name ?? settings?.dataset}, ${data.counts.train.toLocaleString("en")} pictures` : settings?.dataset],
    ["Noise", settings?.noise],
    ["PSNR", change("psnr", 2, " dB"), test?.n && `noisy → denoised, mean of ${test.n.toLocaleString("en")} test pictures`],
    ["MSE", change("mse", 4)],
    ["SSIM", change("ssim", 3)],
    ["Parity", largest(parity?.largest_difference), parity?.comparisons && `largest difference from Keras in ${parity.comparisons} comparisons`],
    ["Parameters", quality?.parameters?.toLocaleString("en")],
    ["Made", manifest.created?.slice(0, 10), manifest.tools && `with ${Object.entries(manifest.tools).filter(([tool]) => ["keras", "onnxruntime"].includes(tool)).map((pair) => pair.join(" ")).join(", ")}`],
    ["Fingerprint", manifest.fingerprint, "Latents with different fingerprints do not belong together."],
  ];
  return rows.filter(([, text]) => text);
}

/** Write the card into a <dl>. */
export function show(place, manifest) {
  place.replaceChildren(
    ...facts(manifest).map(([title, text, hint]) => {
      const row = document.createElement("div");
      if (title === "Fingerprint") row.className = "wide";
      const [term, told] = [document.createElement("dt"), document.createElement("dd")];
      [term.textContent, told.textContent] = [title, text];
      row.append(term, told);
      if (hint) {
        const small = document.createElement("small");
        small.textContent = hint;
        told.append(small);
      }
      return row;
    }),
  );
}
