"""python -m export RUN --out BUNDLE"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m export", description=_ABOUT)
    parser.add_argument("run", type=Path, help="folder of a finished run, e.g. runs/classic")
    parser.add_argument("--out", type=Path, required=True, help="the bundle to make")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    options = parser.parse_args(arguments)

    from common.errors import DenoiserError
    from training.backend import load_tensorflow
    from training.errors import TrainingError

    try:
        load_tensorflow()  # first and quietly: what follows imports it
        from export.bundling import export_run

        export_run(options.run, options.out, overwrite=options.overwrite)
    except (DenoiserError, TrainingError, OSError) as exc:
        print(f"export: {exc}", file=sys.stderr)
        return 1
    return 0


_ABOUT = (
    "Turn encoder, decoder and autoencoder of a run into ONNX and prove, through the engine "
    "that serves them, that they compute what Keras computes. Exit status 1 and no bundle if not."
)

if __name__ == "__main__":
    sys.exit(main())
