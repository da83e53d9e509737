// Interpolation: latents in equal steps between two images, decoded in one request.

import { element } from "./dom.js";
import { paint } from "./images.js";

export const STEPS = 11;

/** STEPS rows of latents from `from` to `to` (both Float32Array), one after another. */
export function between(from, to) {
  const size = from.length;
  return new Float32Array(STEPS * size).map((_, i) => {
    const share = Math.floor(i / size) / (STEPS - 1);
    return from[i % size] + share * (to[i % size] - from[i % size]);
  });
}

/** The decoded images as buttons in `place`; `chosen(latents)` is called when one is pressed. */
export function show(place, { images, latents, shape, names, chosen }) {
  const [pixels, size] = [images.length / STEPS, latents.length / STEPS];
  if (place.childElementCount !== STEPS) {
    place.replaceChildren(
      ...Array.from({ length: STEPS }, () => element("button", { type: "button" }, element("canvas"))),
    );
  }
  [...place.children].forEach((button, step) => {
    const share = Math.round((100 * step) / (STEPS - 1));
    button.ariaLabel = `${100 - share} % ${names[0]}, ${share} % ${names[1]}`;
    paint(button.firstElementChild, images.subarray(step * pixels, (step + 1) * pixels), shape);
    button.onclick = () => chosen(latents.slice(step * size, (step + 1) * size));
  });
}
