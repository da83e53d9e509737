"""Bulk jobs: files in, files out, without a server (`python -m service encode|decode|denoise`).

An input is divided into units: ranges of an array, row groups of Parquet, groups of image files.
Units depend on the input and the options alone, and each becomes one part file. A killed job
therefore continues with the units that have no part yet. The last step writes the output from the
parts and renames it.

    command.py     the command line; describe.py: what `info` prints about an output
    job.py         one job, in order: check, open, compute the parts, publish
    options.py     the settings of a job
    sources/       the input as units: opening.py chooses arrays, tables, files or archives
    decoding/      image files to rows, on all cores
    models.py      who computes: an engine in this process, or a service at --url
    work.py        one unit: read, compute, write its part (parts.py)
    pipeline.py    all units in this process
    ray/           all units on a Ray cluster
    journal.py     the hidden folder that holds the parts until the output is published
    outputs.py     parts to output; provenance.py: the metadata of an output

The extra `bulk` (pyarrow, rich) is needed by jobs only, not to serve; arrow.py imports pyarrow.
"""
