"""The training stage: images in, a run folder out.

Reads top to bottom as the data goes: `datasets` → `noise` → `batches` → `model` → `fit` →
`metrics` and `figures` → `runs` (the folder that the export stage reads).
"""
