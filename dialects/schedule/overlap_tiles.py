"""``schedule.overlap_tiles``: full tiles only, of which the last starts earlier."""

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.mlir import affine, arith, ext, ir, scf, transform, walk
from mlcflow.schedule.labels import constant


class OverlapTiles(ScheduleDialect.Operation, name="overlap_tiles"):
    """Let the last iteration of each tile loop of ``target`` work on a whole tile.

    A loop from 0 to N by steps of T clips its last tile to ``min(T, N - i)``. Here that tile
    starts at ``N - T`` instead, and computes again what lies in the tile before it: every tile
    has the static size T. The tiles are parallel, N >= T, and a tile does not read what it
    overwrites.
    """

    target: ext.Operand[transform.AnyOpType]


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(OverlapTiles, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for loop in payload:
        extent, size = constant(loop.upperBound), constant(loop.step)
        if extent is None or size is None:
            raise ValueError("expected a loop with constant bounds")
        if extent % size:
            _overlap(loop, extent, size, erase)


def _overlap(loop: scf.ForOp, extent: int, size: int, erase: Erase) -> None:
    position = loop.induction_variable
    dim = ir.AffineExpr.get_dim(0)
    clipped = [
        other
        for other in walk(loop)
        if isinstance(other, affine.AffineMinOp)
        and list(other.operands) == [position]
        and set(ir.AffineMapAttr(other.attributes["map"]).value.results)
        == {ir.AffineExpr.get_constant(size), extent - dim}
    ]
    start = ir.AffineMap.get(1, 0, [dim, ir.AffineExpr.get_constant(extent - size)])
    with ir.InsertionPoint.at_block_begin(loop.body), loop.location:
        whole = arith.constant(ir.IndexType.get(), size)
        moved = affine.AffineMinOp(start, [position])
    for other in clipped:
        other.result.replace_all_uses_with(whole)
        erase(other.operation)
    position.replace_all_uses_except(moved.result, moved.operation)
