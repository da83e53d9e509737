// Images as flat arrays (height, width, channels), on canvases and from files.

import { element } from "./dom.js";

const LIGHT = 191; // an edge above 3/4 is paper: the classic noise alone has a median of 1/2

/** Uint8Array or Float32Array (in [0, 1]) of one image onto a canvas, which takes its size. */
export function paint(canvas, values, [height, width, channels]) {
  const scale = values instanceof Uint8Array ? 1 : 255;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      image.data[4 * i + c] = scale * values[i * channels + (channels === 3 ? c : 0)]; // clamped
    }
    image.data[4 * i + 3] = 255;
  }
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** A canvas's pixels as Uint8Array (height·width·channels); grey is ITU-R 601 luma, as for PNGs. */
export function read(canvas, channels) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const values = new Uint8Array((data.length / 4) * channels);
  for (let i = 0, k = 0; k < data.length; i += channels, k += 4) {
    if (channels === 3) [values[i], values[i + 1], values[i + 2]] = [data[k], data[k + 1], data[k + 2]];
    else values[i] = Math.round((299 * data[k] + 587 * data[k + 1] + 114 * data[k + 2]) / 1000);
  }
  return values;
}

/** One colour all over a canvas; with "difference" and white, light becomes dark. Returns its context. */
export function fill(canvas, colour, operation = "copy") {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.save();
  context.globalCompositeOperation = operation;
  context.fillStyle = colour;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.restore();
  return context;
}

/**
 * An image file fitted whole into a canvas of the model's size; around it black, or the paper's colour.
 *
 * @returns whether the paper is light; its colour then becomes black when the image is inverted
 * Throws if the browser cannot read the file.
 */
export async function fit(blob, canvas) {
  const image = await createImageBitmap(blob);
  const scale = Math.min(canvas.width / image.width, canvas.height / image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  const small = await createImageBitmap(image, {
    resizeWidth: Math.max(1, Math.round(width)),
    resizeHeight: Math.max(1, Math.round(height)),
    resizeQuality: scale === 1 ? "pixelated" : "high",
  });
  const [x, y] = [canvas.width - small.width, canvas.height - small.height].map((room) => Math.floor(room / 2));
  const context = fill(canvas, "#000");
  context.drawImage(small, x, y);
  const paper = edge(context.getImageData(x, y, small.width, small.height));
  const light = Math.min(...paper) > LIGHT;
  if (light) {
    fill(canvas, `rgb(${paper})`);
    context.drawImage(small, x, y);
  }
  image.close();
  small.close();
  return light;
}

/** A canvas of the model's size whose pixels are read often. */
export function surface([height, width]) {
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d", { willReadFrequently: true });
  return canvas;
}

/** The median colour of an image's edge: [red, green, blue]. */
function edge({ data, width, height }) {
  const at = [];
  for (let y = 0; y < height; y++) {
    const whole = y === 0 || y === height - 1;
    for (let x = 0; x < width; x += whole ? 1 : Math.max(1, width - 1)) at.push(4 * (y * width + x));
  }
  return [0, 1, 2].map((c) => at.map((k) => data[k + c]).sort((a, b) => a - b)[at.length >> 1]);
}

/** Mean squared error in [0, 1]², of Uint8Array or Float32Array images alike. */
export function mse(one, other) {
  const [a, b] = [one, other].map((values) => (values instanceof Uint8Array ? 255 : 1));
  let sum = 0;
  for (let i = 0; i < one.length; i++) sum += (one[i] / a - other[i] / b) ** 2;
  return sum / one.length;
}
