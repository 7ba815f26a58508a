"""Contractions that processors of the x86 family compute by dot products of short integers or bf16.

``vdpbf16ps`` and ``vpdpbusd`` add to each 32-bit lane the products of two neighbouring bf16, or
four neighbouring i8 (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2).
"""

from __future__ import annotations

from dataclasses import dataclass

from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import indexing_maps, inputs, payload
from mlcflow.graph.same_operation import element_type
from mlcflow.mlir import ir, linalg

WIDTHS = {("bf16", "f32"): 2, ("i8", "i32"): 4}
"""Products that one instruction adds to a lane, by element types of inputs and result."""

LANES = (16, 8, 4)
"""Lanes of 32 bits in a vector register."""

ARITHMETIC = frozenset(
    f"arith.{name}" for name in ("extf", "extsi", "mulf", "muli", "addf", "addi")
)


def sizes_suit(columns: int, depth: int, width: int) -> bool:
    """Whether ``columns`` sums of ``depth`` products are made of dot products of ``width``.

    Tiles of whole registers may overlap where there are more columns than a register holds.
    """
    return depth % width == 0 and (columns in LANES or columns > LANES[0])


@dataclass(frozen=True)
class DotForm:
    """``C[m, n] += A[m, k] * B[k, n]``, in elements: ``rows`` x ``columns`` x ``steps * width``.

    ``width`` elements along k are one dot product. ``has_rows`` is false for a row times a
    matrix, without the loop m. ``is_packed``: these elements are an innermost dimension of
    their own, A[m, k / width, width] and B[k / width, n, width]. ``batch``: how many loops of
    one iteration all three begin with.
    """

    rows: int
    columns: int
    steps: int
    width: int
    has_rows: bool
    is_packed: bool
    batch: int = 0

    @property
    def lanes(self) -> int:
        """Columns of one instruction: as many as divide all of them."""
        return next(lanes for lanes in LANES if self.columns % lanes == 0)

    @property
    def instructions(self) -> int:
        """Dot products of whole registers that it takes."""
        return self.rows * (self.columns // self.lanes) * self.steps


def dot_form(op: ir.OpView) -> DotForm | str:
    """How ``op`` is made of dot products; in words why not, if it is not."""
    if not linalg.isa_contraction_op(op.operation):
        return f"{op.operation.name} is no contraction"
    first, second, result = (str(element_type(value)) for value in op.operands)
    width = WIDTHS.get((first, result)) if first == second else None
    if width is None:
        return f"it multiplies {first} and {second} into {result}; expected {_known()}"
    odd = [name for inner in payload(op) if (name := inner.operation.name) not in ARITHMETIC]
    if odd:
        return f"it computes with {odd[0]}; expected a sum of products of signed numbers"
    return _by_layout(op, width)


def _known() -> str:
    return " or ".join(f"{kind} and {kind} into {result}" for kind, result in WIDTHS)


def _by_layout(op: ir.OpView, width: int) -> DotForm | str:
    left, right, result = (list(each.results) for each in indexing_maps(op))
    extents = loop_extents(op)
    if min(extents) < 1:
        return f"its loops are {list(extents)}; expected known extents above 0"
    batch = 0
    while left[batch : batch + 1] == right[batch : batch + 1] == result[batch : batch + 1]:
        if extents[left[batch].position] > 1:
            return f"it computes a batch of {extents[left[batch].position]}; split the loop to 1"
        batch += 1
    left, right, result = left[batch:], right[batch:], result[batch:]
    if not result:
        return "it computes one number; expected a row of them at least"
    rows, columns = result[:-1], result[-1]
    flat = len(left) == len(rows) + 1 and right == [left[-1], columns]
    packed = len(left) == len(rows) + 2 and right == [left[-2], columns, left[-1]]
    if not (flat or packed) or len(rows) > 1 or left[: len(rows)] != rows:
        return (
            f"it reads A[{_names(left)}] and B[{_names(right)}] into C[{_names(result)}]; expected "
            f"A[m, k] and B[k, n], or packed A[m, k/{width}, {width}] and "
            f"B[k/{width}, n, {width}], into C[m, n]"
        )
    m = extents[rows[0].position] if rows else 1
    n, k = extents[columns.position], extents[left[len(rows)].position]
    if n % LANES[-1]:
        return f"it has {n} columns; expected a multiple of {LANES[-1]}: split or pad them"
    if packed and extents[left[-1].position] != width:
        innermost = extents[left[-1].position]
        return f"{innermost} elements along k lie together; expected {width}: pack it by {width}"
    if flat and k % width:
        return f"its reduction has {k} iterations; expected a multiple of {width}: pad it first"
    steps = k if packed else k // width
    return DotForm(m, n, steps, width, has_rows=bool(rows), is_packed=packed, batch=batch)


def _names(results: list[ir.AffineExpr]) -> str:
    return ", ".join(str(expression) for expression in results)


def operands_of(op: ir.OpView) -> tuple[ir.Value, ir.Value, ir.Value]:
    """A, B and C of a contraction."""
    a, b = inputs(op)
    return a, b, op.operation.operands[2]
