"""The training stage: images in, a run folder out.

Reads top to bottom as the data goes: `datasets` → `noise` → `batches` → `model` → `fit` →
`measure` and `figures` → `runs` (the folder that the export stage reads). A finished run is looked
at again by `assess`: `heldout` images → `measure`, `latents`, `classical` → `summary`, with
`bootstrap` intervals → `evaluate` and `compare` for people, `report` for a page.
"""
