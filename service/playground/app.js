// The playground: asks for the model's manifest, then connects the panels.
//
// stages.js      draw → add noise → denoise    canvas.js samples.js noise.js images.js
// latents.js     latents and decoder           bars.js interpolation.js snippets.js
// many.js        files and folders
// model-card.js  the manifest for people
// api.js         the service                   npy.js zip.js notice.js dom.js

import { hasKey, manifest } from "./api.js";
import { Latents } from "./latents.js";
import { Many } from "./many.js";
import * as card from "./model-card.js";
import * as notice from "./notice.js";
import { Stages } from "./stages.js";

const stages = new Stages((result) => latents.show(result));
const addNoise = (values, nth) => stages.addNoise(values, nth);
const latents = new Latents(addNoise);
const many = new Many(addNoise);

async function start() {
  try {
    const model = await manifest();
    notice.clear(start);
    card.show(document.getElementById("facts"), model);
    for (const place of document.querySelectorAll("[data-fact=latents]")) place.textContent = model.latent_size;
    guard(hasKey());
    stages.adopt(model);
    await latents.adopt(model.image_shape);
    await many.adopt(model.image_shape);
  } catch (error) {
    guard(error.kind === "key");
    notice.report(error, start, start);
  }
}

/** Where the service has an API key, hide links that need it: only the page's own requests carry it. */
function guard(keyed) {
  for (const link of document.querySelectorAll(".guarded")) link.hidden = keyed;
}

// A file dropped outside the drop zones does not replace the page.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
for (const id of ["drop-zone", "many-drop"]) {
  const zone = document.getElementById(id);
  zone.addEventListener("dragover", () => zone.classList.add("over"));
  for (const kind of ["dragleave", "drop"]) zone.addEventListener(kind, () => zone.classList.remove("over"));
}

notice.start();
start();
