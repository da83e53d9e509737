"""Each speed that the README claims, measured beside the peers in one run.

`python -m benchmarks` prints Markdown tables and writes JSON and pictures. Everything that is
compared runs in turn (A B C A B C …), so that a busy machine slows all of it alike; what is quoted
are medians, their spread, and ratios taken round by round. `LOG.md` keeps what was tried.
"""
