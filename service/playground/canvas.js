// The drawing: a canvas of the model's own size, so that the drawing is what the figures compare with.

import { PEN } from "./samples.js";

/** Draw in white with mouse, pen or finger on `canvas`; `changed` is called after each move. */
export function drawable(canvas, changed) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let last = null; // where the pen is while it is down

  const place = ({ clientX, clientY }) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return [((clientX - left) / width) * canvas.width, ((clientY - top) / height) * canvas.height];
  };
  const line = (from, to) => {
    context.strokeStyle = "#fff";
    context.lineWidth = PEN * Math.min(canvas.width, canvas.height);
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
    line(last, [last[0] + 0.01, last[1]]); // a dot
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
  canvas.addEventListener("lostpointercapture", () => (last = null));
}
