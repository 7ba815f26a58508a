"""Convolutions, poolings and depthwise convolutions with channels last, as schedules see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import indexing_maps, inputs, is_linalg, loop_kinds, payload
from mlcflow.mlir import ir


@dataclass(frozen=True)
class Window:
    """An operation that moves a window over an image whose last dimension is channels.

    The loops are first those of the result, of which the last, ``channel``, runs over its
    channels, and ``row`` over positions along a row; then those of the window. ``mixes``:
    whether each output channel is a sum over input channels, the last loop, as in a
    convolution, or made of one, as in a pooling. ``moves``: whether that is the channel of the
    same number; else the image, or group, has one channel. ``weights``: the dimensions of the
    second operand in an order in which the output channels are last; none if it is not read.
    """

    row: int
    channel: int
    mixes: bool
    moves: bool
    weights: tuple[int, ...]

    @property
    def is_turned(self) -> bool:
        """Whether the weights have another order than that in which they are read."""
        return self.weights != tuple(sorted(self.weights))


def read_window(op: ir.OpView, *, wide: bool = False) -> Window | None:
    """``op`` as a window; ``None`` if it is not one in this form, or sizes are not known.

    ``wide``: its factors may be widened before they are multiplied.
    """
    if not is_linalg(op) or not 1 <= len(inputs(op)) <= 2 or len(op.results) != 1:
        return None
    extents, kinds, maps = loop_extents(op), loop_kinds(op), indexing_maps(op)
    channel = kinds.count("parallel") - 1
    if min(extents, default=-1) < 1 or channel < 1 or channel == len(kinds) - 1:
        return None
    if "reduction" in kinds[: channel + 1] or not _is_prefix(maps[-1]):
        return None
    weights, reads = _weights(op, channel), list(maps[0].results)
    if weights is None or not reads:
        return None
    last = reads[-1].position if isinstance(reads[-1], ir.AffineDimExpr) else None
    mixes = last == len(kinds) - 1
    if mixes and not (weights and _multiplies_and_adds(op, wide=wide)):
        return None
    moves = last == channel
    if not moves and not weights:
        return None
    positions = reads[:-1] if mixes or moves else reads
    if not all(_is_position(e, channel, len(kinds)) for e in positions):
        return None
    shared = _loops(maps[1]) if weights else set()
    rows = [loop for loop in range(channel) if loop not in shared]
    if not rows or any(loop < rows[-1] for loop in shared):
        return None  # a product of many matrices
    return Window(rows[-1], channel, mixes, moves, weights)


def _multiplies_and_adds(op: ir.OpView, *, wide: bool) -> bool:
    names = [inner.operation.name for inner in payload(op)]
    if wide and names[:2] == ["arith.extf"] * 2:
        names = names[2:]
    return names in (["arith.mulf", "arith.addf"], ["arith.muli", "arith.addi"])


def _is_prefix(affine_map: ir.AffineMap) -> bool:
    """Whether the results are the first loops, in order."""
    results = list(affine_map.results)
    return all(isinstance(e, ir.AffineDimExpr) for e in results) and [
        e.position for e in results
    ] == list(range(len(results)))


def _loops(affine_map: ir.AffineMap) -> set[int]:
    return {e.position for e in affine_map.results if isinstance(e, ir.AffineDimExpr)}


def _weights(op: ir.OpView, channel: int) -> tuple[int, ...] | None:
    """The dimensions of the weights, that of the output channels last; ``None`` for other forms.

    The second input of a pooling gives the extent of its window, and is not read.
    """
    if len(inputs(op)) == 1:
        return ()
    affine_map = indexing_maps(op)[1]
    if channel not in _loops(affine_map):
        argument = op.operation.regions[0].blocks[0].arguments[1]
        return None if list(argument.uses) else ()
    if len(_loops(affine_map)) != len(affine_map.results):
        return None
    loops = [e.position for e in affine_map.results if isinstance(e, ir.AffineDimExpr)]
    return tuple(sorted(range(len(loops)), key=lambda dim: loops[dim] == channel))


def _is_position(expression: ir.AffineExpr, channel: int, depth: int) -> bool:
    """Whether an image is read at a multiple of loops other than ``channel``."""
    if isinstance(expression, ir.AffineConstantExpr):
        return True
    # As if ``channel`` alone had more than one iteration.
    extents = [1 + (loop == channel) for loop in range(depth)]
    found = position_of(expression, extents)
    return found is not None and found[0] != channel


def position_of(expression: ir.AffineExpr, extents: Sequence[int]) -> tuple[int, int, int] | None:
    """The loop that alone moves ``expression``, its stride, and the first position.

    Loops of one iteration stay at 0; where all do, the loop is the last of them. ``None`` if
    several loops move it, or it is not a sum of multiples of loops.
    """
    terms: dict[int, int] = {}
    first = _collect(expression, 1, terms)
    if first is None or any(factor < 1 for factor in terms.values()) or not terms:
        return None
    moving = [loop for loop in terms if extents[loop] != 1] or [max(terms)]
    return (moving[0], terms[moving[0]], first) if len(moving) == 1 else None


def _collect(expression: ir.AffineExpr, factor: int, terms: dict[int, int]) -> int | None:
    """Add ``factor * expression`` to the multiples of loops; gives the constant part."""
    if isinstance(expression, ir.AffineConstantExpr):
        return factor * expression.value
    if isinstance(expression, ir.AffineDimExpr):
        terms[expression.position] = terms.get(expression.position, 0) + factor
        return 0
    if isinstance(expression, ir.AffineAddExpr):
        parts = [_collect(e, factor, terms) for e in (expression.lhs, expression.rhs)]
        return None if None in parts else sum(part for part in parts if part is not None)
    if isinstance(expression, ir.AffineMulExpr) and isinstance(
        expression.rhs, ir.AffineConstantExpr
    ):
        return _collect(expression.lhs, factor * expression.rhs.value, terms)
    return None
