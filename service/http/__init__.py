"""The HTTP API: routes, formats, limits, errors."""
