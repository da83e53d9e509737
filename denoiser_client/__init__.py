"""HTTP client of a denoiser service; needs numpy and httpx alone."""
