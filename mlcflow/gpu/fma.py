"""Products of f32 by a warp without tensor cores, on tiles that are spread as for these."""

from __future__ import annotations

from mlcflow.errors import LoweringError
from mlcflow.gpu.axes import WARP
from mlcflow.gpu.fragments import Factor, Lane
from mlcflow.gpu.loops import constant_index
from mlcflow.gpu.mma_form import COLUMNS, ROWS, MmaForm
from mlcflow.gpu.spread import Part
from mlcflow.mlir import arith, gpu, ir, vector

STEP = 4
"""Steps of the reduction at once: 16 bytes of a row of B[n, k]."""


def multiply(form: MmaForm, left: Part | None, right: Factor, held: Part, who: Lane) -> None:
    """``C += A B``, of which a lane computes the sums that it holds, in the order of ``k``.

    The elements of a row of A come from the lanes that hold them; B is read from where it lies.
    """
    if left is None:
        raise LoweringError(
            "the lanes of a warp multiply what they hold: expected a left factor that is copied "
            "by warps, as cache_read and bind do"
        )
    tiles = [(m, n, half) for m in range(form.m // ROWS) for n in _across(form) for half in (0, 1)]
    sums = {tile: held.pair(*tile) for tile in tiles}
    step = STEP if right.across else 1
    for first in range(0, form.k, step):
        columns = [_columns(right, who, n, first, step) for n in _across(form)]
        for k in range(step):
            for m in range(form.m // ROWS):
                for half in (0, 1):
                    a = _element(left, who, m, half, first + k)
                    for n in _across(form):
                        product = arith.mulf(a, columns[n][k])
                        sums[m, n, half] = arith.addf(sums[m, n, half], product)
    for (m, n, half), pair in sums.items():
        vector.store(pair, held.memory, held.at(m, n, half, 0))


def _across(form: MmaForm) -> range:
    return range(form.n // COLUMNS)


def _element(left: Part, who: Lane, m: int, half: int, k: int) -> ir.Value:
    """A[row, k], twice, for the row of this lane in ``half`` of part ``m``."""
    n, column = divmod(k, COLUMNS)
    rest, side = divmod(column, 2)
    own = vector.extract(left.pair(m, n, half), [], [side])
    i32 = ir.IntegerType.get_signless(32)
    first = arith.muli(who.group, constant_index(4))
    source = arith.index_cast(i32, arith.addi(first, constant_index(rest)))
    mode = ir.Attribute.parse("#gpu<shuffle_mode idx>")
    value = gpu.ShuffleOp(own, source, arith.constant(i32, WARP), mode).results[0]
    return vector.broadcast(ir.VectorType.get([2], value.type), value)


def _columns(right: Factor, who: Lane, n: int, k: int, steps: int) -> list[ir.Value]:
    """B[k.., ..] of some steps, for the two columns of this lane in part ``n``."""
    pair = ir.VectorType.get([2], right.element)
    first = arith.addi(arith.muli(who.rest, constant_index(2)), constant_index(n * COLUMNS))
    if not right.across:
        rows = [right.at(constant_index(k + step), first) for step in range(steps)]
        return [vector.load(pair, right.place.buffer, at) for at in rows]
    wide = ir.VectorType.get([steps], right.element)
    both = [
        vector.load(wide, right.place.buffer, right.at(row, constant_index(k)))
        for row in (first, arith.addi(first, constant_index(1)))
    ]
    return [
        vector.from_elements(pair, [vector.extract(row, [], [step]) for row in both])
        for step in range(steps)
    ]
