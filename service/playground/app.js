// The playground: asks what the model is, then lets its parts talk to each other.
//
// stages.js   draw → spoil → clean          canvas.js samples.js noise.js pictures.js
// inside.js   latents, decoder, walk        latents.js walk.js snippets.js
// many.js     folders and zips              batch.js zip.js png.js checksum.js
// card.js     the model's card
// api.js      the service                   npy.js notice.js

import { hasKey, manifest } from "./api.js";
import * as card from "./card.js";
import { Inside } from "./inside.js";
import { Many } from "./many.js";
import * as notice from "./notice.js";
import { Stages } from "./stages.js";

const stages = new Stages((answer) => inside.arrived(answer));
const spoil = (values, nth) => stages.spoil(values, nth);
const inside = new Inside(spoil);
const many = new Many(spoil);

async function start() {
  try {
    const model = await manifest();
    notice.clear(start);
    card.show(document.getElementById("facts"), model);
    for (const place of document.querySelectorAll("[data-fact=latents]")) place.textContent = model.latent_size;
    guard(hasKey());
    stages.adopt(model);
    await inside.adopt(model.image_shape);
    await many.adopt(model.image_shape);
  } catch (error) {
    guard(error.kind === "key");
    notice.tell(error, start, start);
  }
}

/** Where the service wants a key, hide links that need it: only the page's own requests carry it. */
function guard(keyed) {
  for (const link of document.querySelectorAll(".guarded")) link.hidden = keyed;
}

// A file that is dropped beside its place does not replace the page.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
for (const id of ["drop-zone", "many-drop"]) {
  const place = document.getElementById(id);
  place.addEventListener("dragover", () => place.classList.add("over"));
  for (const kind of ["dragleave", "drop"]) place.addEventListener(kind, () => place.classList.remove("over"));
}

notice.start();
start();
