"""The OpenAPI 3.1 document: `openapi.json`, filled in for the model and the settings.

Nodes with `"x-requires": "key"` are left out where no API key is set, those with `"novelty"` where
the bundle has no novelty model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from service import __version__
from service.bundle import Manifest
from service.settings import Settings

TEMPLATE = Path(__file__).with_name("openapi.json")


def document(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    """The document for a server of this model with these settings, as plain JSON types."""
    available = {"key": bool(settings.api_key), "novelty": bool(manifest.novelty)}
    filled: dict[str, Any] = _without(json.loads(TEMPLATE.read_text("utf-8")), available)
    if not filled["security"]:
        del filled["security"]  # an empty list would say that no route needs a key
    filled["info"]["version"] = __version__
    schemas = filled["components"]["schemas"]
    schemas["Latent"] |= _array({"type": "number"}, manifest.latent_size)
    height, width, channels = manifest.image_shape
    pixel = {"type": "number", "minimum": 0, "maximum": 1}
    schemas["Images"] |= _array(_array(_array(_array(pixel, channels), width), height))
    fingerprint = filled["components"]["headers"]["Fingerprint"]
    fingerprint["schema"]["const"] = manifest.fingerprint
    return filled


def _without(node: Any, available: dict[str, bool]) -> Any:
    """`node` without what is not available, at any depth, and without the marks."""
    if isinstance(node, list):
        return [_without(item, available) for item in node if _kept(item, available)]
    if isinstance(node, dict):
        items = {name: item for name, item in node.items() if _kept(item, available)}
        items.pop("x-requires", None)
        return {name: _without(item, available) for name, item in items.items()}
    return node


def _kept(node: Any, available: dict[str, bool]) -> bool:
    return not isinstance(node, dict) or available.get(node.get("x-requires", ""), True)


def _array(items: dict[str, Any], length: int | None = None) -> dict[str, Any]:
    """The schema of a list, of exactly `length` items where that is given."""
    size = {} if length is None else {"minItems": length, "maxItems": length}
    return {"type": "array", "items": items, **size}
