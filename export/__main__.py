"""Command line: `python -m export RUN --out BUNDLE`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

ABOUT = (
    "Convert encoder, decoder and autoencoder of a run to ONNX, and check through the engine that "
    "serves them that they compute what Keras computes. If not: exit status 1 and no bundle."
)


def main(arguments: list[str] | None = None) -> int:
    """Export one run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m export", description=ABOUT)
    parser.add_argument("run", type=Path, help="folder of a finished run, e.g. runs/classic")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    options = parser.parse_args(arguments)

    from common.errors import DenoiserError
    from training.backend import load_tensorflow

    logger, lines = logging.getLogger("export"), logging.StreamHandler(sys.stdout)
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # onnxruntime.quantization configures the root logger
    try:
        load_tensorflow()  # first and quietly: what follows imports it
        from export.bundling import export_run

        sys.dont_write_bytecode = True  # else AutoGraph leaves a file in /tmp/__pycache__
        export_run(options.run, options.out, overwrite=options.overwrite)
    except (DenoiserError, OSError) as exc:
        print(f"export: {exc}", file=sys.stderr)
        return 1
    finally:
        logger.removeHandler(lines)
        logger.propagate = True
    return 0


if __name__ == "__main__":
    sys.exit(main())
