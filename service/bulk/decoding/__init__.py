"""Image files to arrays, on all cores."""
