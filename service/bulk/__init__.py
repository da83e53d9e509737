"""Bulk jobs: files in, files out, without a server (`python -m service encode|decode|denoise`).

An input is cut into units: ranges of an array, groups of files, slices of Parquet row groups. Units
depend on the input and the options alone, and each becomes one part file, so a job that was killed
goes on with the units that have no part yet. When all are there, they are streamed into the output.

    options.py     what one job is asked to do
    inputs.py      the right source for an input:
                   files.py, archives.py (listing.py), arrays.py, tables.py (fields.py),
                   csvfile.py; behind URLs buckets.py
    pictures.py    image files → rows, on all cores (imagefile.py, in processes: worker.py)
    models.py      who computes: an engine in this process, or a service far away
    work.py        one unit: read, compute, write its part (parts.py)
    pipeline.py    all units, reading and writing beside the engine
    ray_engine.py  all units on a Ray cluster, in place of that; ray_worker.py: what goes there
    journal.py     the hidden folder beside the output: whose parts these are
    outputs.py     parts → the output, renamed last (provenance.py: what it says about itself)
    job.py         all of it in order
    command.py     the command line; describe.py: what an output is

Only command lines load pyarrow (arrow.py): the extra `bulk` is not needed to serve.
"""
