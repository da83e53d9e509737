"""The exact rewrites, in the order in which they need each other.

Fixed rules, not timings, decide: the same run must always give the same bytes.
"""

from __future__ import annotations

from export.cleanup import rename
from export.fold import activate_before_reshape, fold_linear
from export.graph import Graph
from export.phases import split_last_upsampling


def optimise(graph: Graph) -> None:
    """Rewrite a clean graph into one that computes the same with less work."""
    fold_linear(graph)
    activate_before_reshape(graph)
    split_last_upsampling(graph)
    graph.prune()
    rename(graph)
