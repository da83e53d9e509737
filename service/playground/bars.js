// The latents as upright bars that can be dragged, each a slider for keyboards and screen readers.

import { element } from "./dom.js";

/** Bars in `place`; `moved(values)` is called on each drag, with all of them. */
export class Bars {
  #inputs = [];
  #reach = 1; // the bars go from -reach to reach

  constructor(place, moved) {
    this.place = place;
    this.moved = moved;
  }

  /** Float32Array of all the numbers. */
  get values() {
    return Float32Array.from(this.#inputs, (input) => Number(input.value));
  }

  /** Show other numbers; for another length, other bars. */
  show(values) {
    if (values.length !== this.#inputs.length) this.#make(values.length);
    this.widen(values);
    values.forEach((value, i) => {
      this.#inputs[i].value = value;
      this.#fill(this.#inputs[i]);
    });
  }

  /** Extend the range to hold all of these numbers with some room. */
  widen(values) {
    const largest = Math.max(...values.map(Math.abs));
    if (largest <= this.#reach) return;
    this.#reach = Math.ceil(2.2 * largest) / 2;
    for (const input of this.#inputs) {
      const value = input.value;
      [input.min, input.max] = [-this.#reach, this.#reach];
      input.value = value;
      this.#fill(input);
    }
  }

  #make(count) {
    const bars = Array.from({ length: count }, (_, i) => {
      const [min, max] = [-this.#reach, this.#reach];
      const input = element("input", { type: "range", min, max, step: "any", ariaLabel: `Latent ${i + 1}`, ariaOrientation: "vertical" });
      input.addEventListener("input", () => {
        this.#fill(input);
        this.moved(this.values);
      });
      input.addEventListener("keydown", (event) => this.#step(event, input));
      const value = element("output", { ariaHidden: "true" }); // the slider's own text says it
      const number = element("span", { ariaHidden: "true", textContent: i + 1 });
      return element("div", { className: "bar" }, value, input, number);
    });
    this.place.replaceChildren(...bars);
    this.#inputs = [...this.place.querySelectorAll("input")];
  }

  /** Arrow keys move by a twentieth of the reach: step="any" would leave that to the browser. */
  #step(event, input) {
    const ways = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5 };
    if (!(event.key in ways)) return;
    event.preventDefault();
    input.value = Number(input.value) + (ways[event.key] * this.#reach) / 20;
    input.dispatchEvent(new Event("input"));
  }

  /** Colour the bar from zero to its value. */
  #fill(input) {
    const value = Number(input.value);
    const share = 50 + (50 * value) / this.#reach;
    input.style.setProperty("--from", `${Math.min(50, share)}%`);
    input.style.setProperty("--to", `${Math.max(50, share)}%`);
    input.setAttribute("aria-valuetext", value.toFixed(2));
    input.previousElementSibling.textContent = value.toFixed(1);
  }
}
