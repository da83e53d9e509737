"""What the stages share, once: errors, publishing, images, array types, cores.

Every stage imports this package first, so that what it sets holds before other packages look:
ONNX Runtime, BentoML and Ray report usage to their makers unless they are asked not to.
"""

from __future__ import annotations

import os

for _switch, _off in {
    "ORT_DISABLE_TELEMETRY": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_switch, _off)
