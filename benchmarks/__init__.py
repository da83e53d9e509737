"""Every speed in the documentation, measured beside its peers in one run.

`python -m benchmarks` prints Markdown tables and writes JSON and pictures. Everything that is
compared runs in turn (A B C A B C …), so that a busy machine slows all of it alike; the tables have
medians, ranges, and ratios taken round by round. `LOG.md` keeps what was tried.
"""
