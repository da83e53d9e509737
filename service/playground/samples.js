// Ten digits as pen strokes: points on a smooth curve, in a square of 20 × 20 like MNIST's box.

import { fill } from "./images.js";

export const DIGITS = [
  [[13, 1.5, 8, 2, 4.8, 7, 5, 13.5, 9, 18.5, 13.6, 16, 15.4, 9.5, 13.8, 4, 10.5, 1.6]],
  [[11.8, 1.2, 10.8, 6.5, 9.6, 12.5, 8.6, 18.8]],
  [[4.6, 5.2, 7.4, 2, 12, 1.8, 13.8, 5.2, 11, 10, 6.4, 15, 4, 17.8, 6.5, 16.6, 10.5, 17.6, 16.2, 17.2]],
  [[5, 3, 9.5, 1.4, 13.8, 3.6, 12.4, 7.6, 8.6, 9.2, 12.8, 10.4, 14.6, 14, 11.4, 17.8, 7.4, 18.4, 4, 16.4]],
  [[5.8, 1.8, 4.8, 6, 4.6, 9.6, 8, 10.8, 14.2, 9.8], [14.6, 1.4, 13.6, 7.5, 12.8, 13, 12.4, 18.8]],
  [[14.8, 1.2, 10.6, 1.9, 6.8, 2.7], [6.8, 2.7, 6, 5.4, 5.4, 8.4, 9.4, 8, 13.2, 10, 13.8, 14, 10.6, 17.6, 7, 18.3, 4.2, 16.8]],
  [[12.6, 1.2, 8.4, 5, 5.6, 10.4, 5.4, 15.4, 8.6, 18.4, 12.8, 17, 14.2, 13.4, 11.6, 10.8, 8, 12, 6, 15]],
  [[4.4, 2.8, 9, 2.4, 15, 2.2], [15, 2.2, 12.4, 7.4, 10, 13, 8.8, 18.8]],
  [[13.8, 4.2, 10.6, 1.5, 6.8, 3, 7, 6.6, 10.4, 9.4, 13.4, 12.6, 13.2, 16.6, 9.6, 18.6, 6.2, 16.8, 6.6, 12.8, 10.2, 9.6, 13.2, 7, 13.8, 4.2]],
  [[14, 5.2, 11.2, 1.8, 7.2, 2.6, 5.6, 6.4, 8, 9.8, 12, 8.6, 14.2, 4.4], [14.2, 4.4, 13.8, 9.5, 12.8, 14, 12, 18.8]],
];

const BOX = 28; // the 20 × 20 box stands in the middle of 28 × 28
export const PEN = 2.2 / BOX; // width of the pen, relative to the image's side

/** A digit in white on a black canvas of any size. */
export function draw(canvas, digit) {
  const context = fill(canvas, "#000");
  const side = Math.min(canvas.width, canvas.height);
  context.save();
  context.translate((canvas.width - side) / 2, (canvas.height - side) / 2);
  context.scale(side / BOX, side / BOX);
  context.translate(4, 4);
  context.strokeStyle = "#fff";
  context.lineWidth = PEN * BOX;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of DIGITS[digit]) curve(context, stroke);
  context.restore();
}

/** A Catmull-Rom spline through x, y, x, y, …, as Bézier curves. */
function curve(context, stroke) {
  const at = (i) => {
    const k = 2 * Math.min(Math.max(i, 0), stroke.length / 2 - 1);
    return [stroke[k], stroke[k + 1]];
  };
  context.beginPath();
  context.moveTo(...at(0));
  for (let i = 0; i < stroke.length / 2 - 1; i++) {
    const [[x0, y0], [x1, y1], [x2, y2], [x3, y3]] = [at(i - 1), at(i), at(i + 1), at(i + 2)];
    context.bezierCurveTo(x1 + (x2 - x0) / 6, y1 + (y2 - y0) / 6, x2 - (x3 - x1) / 6, y2 - (y3 - y1) / 6, x2, y2);
  }
  context.stroke();
}
