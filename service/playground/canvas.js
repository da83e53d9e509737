// The drawing: a canvas of the model's own size, so that the drawing is what the figures compare with.

import { PEN } from "./samples.js";

/** Draw in white with mouse, pen or finger on `canvas`; `changed` is called after each move. */
export function drawable(canvas, changed) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let last = null; // where the pen is while it is down

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * canvas.width,
      ((event.clientY - box.top) / box.height) * canvas.height,
    ];
  };
  const width = () => PEN * Math.min(canvas.width, canvas.height);
  const dot = ([x, y]) => {
    context.fillStyle = "#fff";
    context.beginPath();
    context.arc(x, y, width() / 2, 0, 2 * Math.PI);
    context.fill();
  };
  const line = (from, to) => {
    context.strokeStyle = "#fff";
    context.lineWidth = width();
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    dot(last);
    changed();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const step of event.getCoalescedEvents?.() ?? [event]) {
      const next = place(step);
      line(last, next);
      last = next;
    }
    changed();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      last = null;
    });
  }
}

/** All black. */
export function clear(canvas) {
  const context = canvas.getContext("2d");
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
}

/** Light becomes dark. */
export function invert(canvas) {
  const context = canvas.getContext("2d");
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < image.data.length; i++) if (i % 4 !== 3) image.data[i] = 255 - image.data[i];
  context.putImageData(image, 0, 0);
}
