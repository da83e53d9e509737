// The latent numbers: upright bars that can be dragged, each a slider for keyboards and readers.

/** Bars in `place`; `moved(values)` is told of each drag, with all of them. */
export class Bars {
  #inputs = [];
  #reach = 0; // the bars go from -reach to reach

  constructor(place, moved) {
    this.place = place;
    this.moved = moved;
  }

  /** Float32Array of all the numbers. */
  get values() {
    return Float32Array.from(this.#inputs, (input) => Number(input.value));
  }

  /** Show other numbers; as many as there are bars, or new bars are made. */
  show(values) {
    if (values.length !== this.#inputs.length) this.#make(values.length);
    this.widen(values);
    values.forEach((value, i) => {
      this.#inputs[i].value = value;
      this.#fill(this.#inputs[i]);
    });
  }

  /** Let the bars reach as far as all of these numbers, and a little farther. */
  widen(values) {
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    if (largest > this.#reach) this.#widen(Math.ceil(2.2 * largest) / 2);
  }

  #make(count) {
    this.#inputs = Array.from({ length: count }, (_, i) => {
      const input = document.createElement("input");
      input.type = "range";
      input.step = "any";
      input.setAttribute("aria-label", `Latent ${i + 1}`);
      input.setAttribute("aria-orientation", "vertical");
      input.addEventListener("input", () => {
        this.#fill(input);
        this.moved(this.values);
      });
      input.addEventListener("keydown", (event) => this.#step(event, input));
      return input;
    });
    this.place.replaceChildren(
      ...this.#inputs.map((input, i) => {
        const bar = document.createElement("div");
        bar.className = "bar";
        const number = document.createElement("span");
        number.className = "number";
        number.setAttribute("aria-hidden", "true");
        number.textContent = i + 1;
        const value = document.createElement("output");
        value.setAttribute("aria-hidden", "true"); // the slider says it already
        bar.append(value, input, number);
        return bar;
      }),
    );
    this.#widen(Math.max(this.#reach, 1));
  }

  #widen(reach) {
    this.#reach = reach;
    for (const input of this.#inputs) {
      const value = input.value;
      [input.min, input.max] = [-reach, reach];
      input.value = value;
      this.#fill(input);
    }
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
    const told = input.previousElementSibling;
    if (told) told.textContent = value.toFixed(1);
  }
}
