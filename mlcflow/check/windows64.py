"""Error bounds of convolutions that may be computed by tiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlcflow.mlir import ir

REACH = 3
"""Results of the largest tile, 4 by 4, that lie to one side of each other."""


def tiled_loops(
    maps: Sequence[ir.AffineMap], extents: Sequence[int], reduced: Sequence[int], kind: str
) -> list[int]:
    """The loops over rows and columns of a 3x3 convolution of f32 that moves by one pixel.

    Winograd's filtering computes these by tiles. None of anything else, such as a depthwise
    convolution, which shares loops that are not summed with its weights.
    """
    found = []
    for each in maps[0].results:
        if isinstance(each, ir.AffineAddExpr):
            parts = [each.lhs, each.rhs]
            if not all(isinstance(part, ir.AffineDimExpr) for part in parts):
                return []
            position, window = sorted(part.position for part in parts)
            if extents[window] != 3:
                return []
            found.append(position)
    alone = [
        {e.position for e in each.results if isinstance(e, ir.AffineDimExpr)} for each in maps[:2]
    ]
    mixes = set(reduced) >= (alone[0] & alone[1]) != set()
    return found if len(found) == 2 and mixes and kind == "f32" else []


def largest_of_tile(sizes: np.ndarray, loops: Sequence[int]) -> np.ndarray:
    """For each result the largest of ``sizes`` among those that may share a tile with it.

    Results of a tile share their rounding errors: what cancels in exact arithmetic does not.
    """
    for axis in loops:
        widths = [(REACH, REACH) if n == axis else (0, 0) for n in range(sizes.ndim)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(sizes, widths), 2 * REACH + 1, axis
        )
        sizes = windows.max(-1)
    return sizes
