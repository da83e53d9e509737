// A walk from one picture to another: latents in equal steps between them, decoded as one strip.

import { paint } from "./pictures.js";

export const STEPS = 11;

/** STEPS rows of latents from `from` to `to` (both Float32Array), one after another. */
export function between(from, to) {
  const rows = new Float32Array(STEPS * from.length);
  for (let step = 0; step < STEPS; step++) {
    const share = step / (STEPS - 1);
    from.forEach((value, i) => {
      rows[step * from.length + i] = value + share * (to[i] - value);
    });
  }
  return rows;
}

/** The decoded strip as buttons in `place`; `chosen(latents)` is told which one is pressed. */
export function show(place, { images, latents, shape, names, chosen }) {
  const [pixels, size] = [images.length / STEPS, latents.length / STEPS];
  if (place.childElementCount !== STEPS) {
    place.replaceChildren(
      ...Array.from({ length: STEPS }, () => {
        const button = document.createElement("button");
        button.type = "button";
        button.append(document.createElement("canvas"));
        return button;
      }),
    );
  }
  [...place.children].forEach((button, step) => {
    const share = Math.round((100 * step) / (STEPS - 1));
    button.setAttribute("aria-label", `${100 - share} % ${names[0]}, ${share} % ${names[1]}`);
    paint(button.firstElementChild, images.subarray(step * pixels, (step + 1) * pixels), shape);
    button.onclick = () => chosen(latents.slice(step * size, (step + 1) * size));
  });
}
