"""The OpenAPI 3.1 document: `openapi.json`, filled in with what this server runs with.

In the file, "${name}" stands for a value, and a part with `"x-if": name` is left out where that
value is false. Which operations need the API key is read from the table of routes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from service import __version__
from service.bundle import Manifest
from service.http.formats import MAX_HEADER_SCORES
from service.http.routes import ROUTES
from service.http.v2 import models as v2_models
from service.settings import Settings

FILE = Path(__file__).with_name("openapi.json")


def document(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    """The whole document.

    Args:
        manifest: gives shapes, the fingerprint, and whether there are novelty scores.
        settings: gives the limits; with an API key, 401 and the security scheme are declared.
    """
    height, width, channels = manifest.image_shape
    values = {
        "version": __version__,
        "fingerprint": manifest.fingerprint,
        "height": height,
        "width": width,
        "channels": channels,
        "latent_size": manifest.latent_size,
        "models": list(v2_models.INPUTS),
        "model_version": v2_models.VERSION,
        "max_rows": settings.max_rows,
        "max_body": settings.max_body,
        "max_header_scores": MAX_HEADER_SCORES,
        "scores": bool(manifest.novelty),
        "api_key": bool(settings.api_key),
    }
    filled: dict[str, Any] = _fill(json.loads(FILE.read_text(encoding="utf-8")), values)
    if settings.api_key:
        filled["security"] = [{"key": []}]
    for route in ROUTES:
        if route.alias:
            continue
        operation = filled["paths"][route.path][route.methods[0].lower()]
        if not route.key:
            operation["security"] = []
        elif settings.api_key:
            name = "V2Unauthorized" if route.path.startswith("/v2") else "Unauthorized"
            operation["responses"]["401"] = {"$ref": f"#/components/responses/{name}"}
    return filled


def _fill(node: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a part of the file with its places filled in."""
    if isinstance(node, dict):
        kept = {key: part for key, part in node.items() if key != "x-if" and _kept(part, values)}
        return {key: _fill(part, values) for key, part in kept.items()}
    if isinstance(node, list):
        return [_fill(part, values) for part in node if _kept(part, values)]
    if isinstance(node, str):
        place = re.fullmatch(r"\$\{(\w+)\}", node)
        return values[place[1]] if place else Template(node).substitute(values)
    return node


def _kept(part: Any, values: Mapping[str, Any]) -> bool:
    return not isinstance(part, dict) or "x-if" not in part or values[part["x-if"]]
