// The text to copy: the latents, and commands that decode them outside of this page.

/** The text for "json", "curl" or "python"; the key itself is never part of it. */
export function snippet(kind, latents, { base, keyed }) {
  const body = JSON.stringify({ latents: [[...latents].map((value) => Number(value.toFixed(4)))] });
  if (kind === "json") return body;
  if (kind === "curl") {
    return [
      `curl -s ${base}decode`,
      ...(keyed ? [`-H "Authorization: Bearer $DENOISER_API_KEY"`] : []),
      `-H 'Content-Type: application/json' -H 'Accept: image/png'`,
      `-d '${body}'`,
      "-o decoded.png",
    ].join(" \\\n  ");
  }
  const headers = `headers={"Authorization": f"Bearer {os.environ['DENOISER_API_KEY']}"}`;
  return [
    ...(keyed ? ["import os", ""] : []),
    "import httpx",
    "",
    `latents = ${body.slice('{"latents":'.length, -1)}`,
    `answer = httpx.post("${base}decode", json={"latents": latents}${keyed ? `, ${headers}` : ""})`,
    `images = answer.raise_for_status().json()["images"]  # floats in [0, 1]`,
  ].join("\n");
}
