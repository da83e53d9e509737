"""The model card: the manifest's facts for people, as the bundle's README.md.

The manifest does not list the card among its hashed files: a reader may edit it, and the bundle
still loads.
"""

from __future__ import annotations

from typing import Any

from export.novelty import probes
from service.bundle import FLOAT32, INT8, Manifest, Precision

CARD = "README.md"
MNIST_TEST = "7d6db313aa5e2f0d341c67fd1c8a6c3af3cc5ff49251341a7bc72aa79670430f"  # its sha256
# By the name of the data set. The first two are licensed as their Keras documentation says.
CREDITS = {
    "mnist": "MNIST, Y. LeCun and C. Cortes, derived from NIST's databases; CC BY-SA 3.0.",
    "fashion-mnist": "Fashion-MNIST, Zalando SE; MIT licence.",
    "digits": "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine "
    "Learning Repository, as in scikit-learn; CC BY 4.0.",
}
TEMPLATE = """# {m.name}

Denoising convolutional autoencoder for {shape} images, latents of {m.latent_size} numbers, ONNX.
Exported by denoiser {m.tools[denoiser]} from Keras {m.tools[keras]} on {m.created:.10}.

- **Fingerprint** (identity of the latents): `{m.fingerprint}`
- **Training**: preset `{settings[preset]}`, {m.quality[epochs]} epochs, seed {settings[seed]}
- **Data**: {data[name]}, {counts} images
- **Noise**: {settings[noise]}
- **Quality** on {test[n]:,} test images, noisy → denoised: {figures}
- **Parity** with Keras: {m.parity[comparisons]} comparisons, largest difference {worst:.1e}
- **int8**: {int8}
- **Novelty score**: {novelty}

Other images and other noise than these were not evaluated.

Serve it with `DENOISER_BUNDLE=path/to/{m.name} bentoml serve`, or in Python with
`service.engine.Engine.load("path/to/{m.name}")`. `python -m service info path/to/{m.name}` verifies
the hashes of its files.

Source of the data: {credit}
"""


def text(manifest: Manifest) -> str:
    """The card in Markdown, for the sealed manifest of an exported run."""
    settings, data = manifest.training["settings"], manifest.training["data"]
    test = manifest.quality["test"]
    figures = (
        f"{name.upper()} {test['input'][name]:.{digits}f} → {test['output'][name]:.{digits}f}"
        for name, digits in (("mse", 4), ("psnr", 2), ("ssim", 3))
    )
    return TEMPLATE.format(
        m=manifest,
        settings=settings,
        data=data,
        test=test,
        shape="×".join(map(str, manifest.image_shape)),
        counts=", ".join(f"{count:,} {split}" for split, count in data["counts"].items()),
        figures=", ".join(figures),
        worst=max(manifest.parity["largest_difference"].values()),
        int8=_int8(manifest.precisions[INT8]),
        novelty=_novelty(manifest.novelty.get(FLOAT32)),
        credit=CREDITS.get(_known(data), "not recorded."),
    )


def _known(data: dict[str, Any]) -> str:
    """The name of a known data set; a user's folder may be called `mnist` too."""
    if data["sha256"]["test"] == MNIST_TEST:
        return "mnist"
    return str(data["name"]) if data["source"] == "builtin" else ""


def _int8(int8: Precision) -> str:
    if int8.reason:
        return f"not included: {int8.reason}"
    loss = int8.figures["loss"]["autoencoder"]
    cost = f"loses {loss['psnr']:.4f} dB of PSNR and {loss['ssim']:.5f} of SSIM"
    return f"{cost}; fingerprint `{int8.fingerprint}`"


def _novelty(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "not included"
    return f"0 = typical of the training data, 1 = unlike it; {probes.line(facts)}"
