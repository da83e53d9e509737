"""The exact rewrites that make a graph faster, in order.

Fixed rules decide, not timings, so that the same run always gives the same bytes.
"""

from __future__ import annotations

from export.rewrite.cleanup import cancel_transposes, rename
from export.rewrite.columns import read_channels_last
from export.rewrite.fold import activate_before_reshape, bias_as_row, fold_linear
from export.rewrite.graph import Graph
from export.rewrite.phases import split_last_upsampling


def optimise(graph: Graph, *, tiled: bool = True) -> None:
    """Rewrite a clean graph into one that computes the same with less work.

    Args:
        graph: rewritten in place.
        tiled: compute a last layer of several outputs in tiles. In int8 that is slower or less
            exact (benchmarks/LOG.md).
    """
    read_channels_last(graph)
    fold_linear(graph)
    activate_before_reshape(graph)
    bias_as_row(graph)
    split_last_upsampling(graph, tiled=tiled)
    cancel_transposes(graph)
    graph.prune()
    rename(graph)
