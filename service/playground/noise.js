// Noise for clean images: the kinds that training has, from a seed.
//
// The random numbers depend on the seed alone and the sliders scale them, so that a slider moves
// through strengths of the same noise. A spec is what the manifest has in training.settings.noise,
// such as "gaussian:0.5,0.5" or "blur:1+salt-pepper:0.05..0.2".

const number = (name, max, step, start, { min = 0, quiet = 0 } = {}) => ({ name, min, max, step, start, quiet });

/**
 * Each kind: its title, its numbers in the order of the spec (`quiet` is no noise), and `apply`: noisy
 * values for Float32Array values in [0, 1]; the caller clips them.
 */
export const KINDS = {
  gaussian: {
    title: "Gaussian",
    numbers: [number("Mean", 1, 0.01, 0.5), number("Deviation", 1, 0.01, 0.5)],
    apply: (values, [mean, deviation], { normal }) => values.map((v, i) => v + mean + deviation * normal[i]),
  },
  "salt-pepper": {
    title: "Salt and pepper",
    numbers: [number("Share", 1, 0.01, 0.1)],
    apply: (values, [p], { uniform, coin }) => values.map((v, i) => (uniform[i] < p ? Math.round(coin[i]) : v)),
  },
  speckle: {
    title: "Speckle",
    numbers: [number("Deviation", 2, 0.01, 0.5)],
    apply: (values, [deviation], { normal }) => values.map((v, i) => v * (1 + deviation * normal[i])),
  },
  poisson: {
    title: "Poisson",
    numbers: [number("Peak", 255, 1, 8, { min: 1, quiet: 255 })],
    apply: (values, [peak], { uniform }) => values.map((v, i) => poisson(v * peak, uniform[i]) / peak),
  },
  mask: {
    title: "Masked pixels",
    numbers: [number("Share", 1, 0.01, 0.5)],
    // A pixel is masked in all of its channels.
    apply: (values, [p], { uniform }, [, , channels]) => values.map((v, i) => (uniform[i - (i % channels)] < p ? 0 : v)),
  },
  blur: {
    title: "Blur",
    numbers: [number("Deviation", 4, 0.05, 1)],
    apply: (values, [sigma], _, shape) => blur(values, sigma, shape),
  },
};

/** The parts of a spec: [{ kind, values }]; of a range LOW..HIGH the middle; unknown kinds: none. */
export function parse(spec) {
  const parts = [];
  for (const part of String(spec || "").split(/(?<![0-9.]e)\+/i)) { // a plus, but not that of 1e+3
    const [kind, text = ""] = part.trim().split(":");
    if (!(kind in KINDS)) continue;
    const given = text.split(",").map(middle);
    const values = KINDS[kind].numbers.map(({ start }, i) => (Number.isFinite(given[i]) ? given[i] : start));
    parts.push({ kind, values });
  }
  return parts.length ? parts : parse("gaussian:0.5,0.5");
}

/**
 * The noisy image: Uint8Array of the clean one's length (0 to 255).
 *
 * @param clean Uint8Array (height·width·channels)
 * @param parts as `parse` gives them, applied one after another
 * @param shape [height, width, channels]
 */
export function addNoise(clean, parts, { seed, shape }) {
  let values = Float32Array.from(clean, (v) => v / 255);
  parts.forEach(({ kind, values: numbers }, k) => {
    if (KINDS[kind].numbers.every(({ quiet }, i) => numbers[i] === quiet)) return;
    const noisy = KINDS[kind].apply(values, numbers, draws(values.length, seed + 7919 * k), shape);
    values = noisy.map((v) => Math.min(Math.max(v, 0), 1));
  });
  return Uint8Array.from(values, (v) => Math.round(255 * v));
}

/** The same kinds without noise. */
export function quieted(parts) {
  return parts.map(({ kind }) => ({ kind, values: KINDS[kind].numbers.map(({ quiet }) => quiet) }));
}

function middle(text) {
  const ends = text.split("..").map((end) => (end.trim() === "" ? NaN : Number(end)));
  return ends.length === 2 ? (ends[0] + ends[1]) / 2 : ends[0];
}

let cached = { key: "" };

/** One random number per value of the image: from N(0, 1), and twice from [0, 1). */
function draws(size, seed) {
  const key = `${size} ${seed}`;
  if (cached.key === key) return cached; // a slider moves: the same noise
  const next = generator(seed);
  const normal = new Float32Array(size);
  for (let i = 0; i < size; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - next())); // G. Box and M. Muller, 1958
    const angle = 2 * Math.PI * next();
    normal[i] = radius * Math.cos(angle);
    if (i + 1 < size) normal[i + 1] = radius * Math.sin(angle);
  }
  const uniform = Float32Array.from({ length: size }, next);
  const coin = Float32Array.from({ length: size }, next);
  cached = { key, normal, uniform, coin };
  return cached;
}

/** Numbers in [0, 1) from a seed: 32-bit xorshift (G. Marsaglia, 2003), the seed mixed first. */
function generator(seed) {
  let state = Math.imul(seed + 0x9e3779b9, 0x85ebca6b) | 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 8; i++) next(); // near seeds begin alike
  return next;
}

/** The quantile `u` of the Poisson distribution with that mean: its distribution function inverted. */
function poisson(mean, u) {
  let term = Math.exp(-mean);
  let sum = term;
  let count = 0;
  while (u > sum && count < 1000) {
    count += 1;
    term *= mean / count;
    sum += term;
  }
  return count;
}

/** A Gaussian of deviation `sigma` pixels along rows, then columns; edges are mirrored. */
function blur(values, sigma, [height, width, channels]) {
  const reach = Math.floor(4 * sigma + 0.5); // where scipy.ndimage.gaussian_filter cuts it off too
  const weights = Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-0.5 * ((i - reach) / sigma) ** 2));
  const total = weights.reduce((a, b) => a + b);
  const pass = (line, length, step) =>
    line.map((_, i) => {
      const at = Math.floor(i / step) % length;
      const sum = weights.reduce((sum, w, k) => sum + w * line[i + step * (mirror(at + k - reach, length) - at)], 0);
      return sum / total;
    });
  return pass(pass(values, width, channels), height, width * channels);
}

function mirror(i, length) {
  const period = 2 * length;
  const at = ((i % period) + period) % period;
  return at < length ? at : period - 1 - at;
}
