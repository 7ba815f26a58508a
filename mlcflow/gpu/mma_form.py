"""Contractions that the tensor cores of a GPU compute.

``mma.sync`` multiplies a 16 x k tile of A by a k x 8 tile of B and adds them to 16 x 8 sums in
f32, all of them spread over the registers of one warp (PTX ISA, "Warp-level matrix
instructions"; sm_80 and later).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import indexing_maps, payload
from mlcflow.graph.same_operation import element_type
from mlcflow.mlir import ir, linalg

ROWS, COLUMNS = 16, 8
"""Rows and columns of the sums of one instruction."""

DEPTHS = {"f16": 16, "bf16": 16, "f32": 8}
"""Steps of the reduction in one instruction, by element type of the factors. f32 is rounded to
tf32: 8 bits of exponent, 11 of precision."""

NVGPU_MMA, NVGPU_MMA_TF32, GPU_FMA = "nvgpu.mma", "nvgpu.mma.tf32", "gpu.fma"
WGMMA = "nvvm.wgmma"
FACTORS = {
    NVGPU_MMA: ("f16", "bf16"),
    NVGPU_MMA_TF32: ("f32",),
    WGMMA: ("f16", "bf16"),
    GPU_FMA: ("f32",),
}
"""What each way to multiply by a warp takes."""

WGMMA_CHIPS = ("sm_90a",)
WGMMA_COLUMNS = 256
"""Columns of B that one ``wgmma`` takes, at most."""

MOST = 512
"""Instructions that a block becomes; more are a sign that it was not tiled."""

_ARITHMETIC = frozenset(f"arith.{name}" for name in ("extf", "mulf", "addf"))


@dataclass(frozen=True)
class MmaForm:
    """``C[m, n] += A[m, k] * B[k, n]`` of ``kind`` into f32; ``is_turned``: B[n, k].

    ``m`` rows may be those of several loops, as the pixels of an image are; of A every
    ``strides[..]``-th is read along each of them. ``batch``: how many loops of one iteration all
    three begin with.
    """

    m: int
    n: int
    k: int
    kind: str
    is_turned: bool
    batch: int
    strides: tuple[int, ...] = (1,)

    @property
    def depth(self) -> int:
        """Steps of the reduction in one instruction."""
        return DEPTHS[self.kind]

    @property
    def instructions(self) -> int:
        """How many instructions it takes."""
        return (self.m // ROWS) * (self.n // COLUMNS) * -(-self.k // self.depth)


def mma_form(op: ir.OpView) -> MmaForm | str:
    """How ``op`` is made of tiles of tensor cores; in words why not, if it is not."""
    strides = _strides(op)
    if strides is None:
        return f"{op.operation.name} is no contraction"
    first, second, result = (str(element_type(value)) for value in op.operation.operands)
    if first != second or first not in DEPTHS or result != "f32":
        known = ", ".join(DEPTHS)
        return f"it multiplies {first} and {second} into {result}; expected two of {known} into f32"
    odd = [name for inner in payload(op) if (name := inner.operation.name) not in _ARITHMETIC]
    if odd:
        return f"it computes with {odd[0]}; expected a sum of products"
    _, right, out = (list(each.results) for each in indexing_maps(op))
    left = [loop for loop, _ in strides]
    extents, batch = loop_extents(op), 0
    while left[batch : batch + 1] == right[batch : batch + 1] == out[batch : batch + 1]:
        if extents[out[batch].position] != 1:
            return (
                f"its loops are {list(extents)}; expected one matrix: split those of a batch to 1"
            )
        batch += 1
    *lines, n = out[batch:] or [None]
    k = left[-1]
    is_turned = right[batch:] == [n, k]
    if not lines or left[batch:] != [*lines, k] or not (is_turned or right[batch:] == [k, n]):
        return "expected A[m, k] and B[k, n] or B[n, k] into C[m, n]; m may be several loops"
    rows = math.prod(extents[loop.position] for loop in lines)
    columns, depth = (extents[loop.position] for loop in (n, k))
    sizes = [rows, columns, depth]
    steps = tuple(step for _, step in strides[batch:-1])
    form = MmaForm(rows, columns, depth, first, is_turned, batch, steps)
    # Half of the last instruction along k may be zeros.
    for size, step in zip(sizes, (ROWS, COLUMNS, COLUMNS), strict=True):
        if size < 1 or size % step:
            return f"its tile is {sizes} (m, n, k); expected multiples of {step} of {size}"
    return form


def _strides(op: ir.OpView) -> list[tuple[ir.AffineExpr, int]] | None:
    """The loops that move the dimensions of the left factor, and by how much; ``None`` if ``op`` is
    no sum of products of elements that loops, or multiples of them, choose.
    """
    if len(op.operation.operands) != 3 or not indexing_maps(op):
        return None
    left, *others = indexing_maps(op)
    found = [_multiple(expression) for expression in left.results]
    known = [each for each in found if each is not None]
    if len(known) < len(found) or not all(m.is_projected_permutation for m in others):
        return None
    is_plain = all(step == 1 for _, step in known)
    return known if not is_plain or linalg.isa_contraction_op(op.operation) else None


def _multiple(expression: ir.AffineExpr) -> tuple[ir.AffineExpr, int] | None:
    """A loop times a number."""
    if isinstance(expression, ir.AffineDimExpr):
        return expression, 1
    if not isinstance(expression, ir.AffineMulExpr):
        return None
    loop, factor = expression.lhs, expression.rhs
    is_number = isinstance(factor, ir.AffineConstantExpr)
    return (loop, factor.value) if is_number and isinstance(loop, ir.AffineDimExpr) else None
