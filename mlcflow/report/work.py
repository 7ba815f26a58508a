"""What a kernel has to do: floating-point operations, and bytes to read and write."""

from __future__ import annotations

import math

from mlcflow.graph.choices import times_computed
from mlcflow.graph.kernel import Kernel, loop_extents, read_kernel
from mlcflow.graph.linalg_ops import is_fill
from mlcflow.mlir import func, ir, scf
from mlcflow.schedule.labels import trip_count

_MOVES = tuple(f"arith.{name}" for name in ("constant", "select", "ext", "trunc", "sito", "uito"))
_SPARSE = ("tensor.extract", "tensor.dim")


def flops(kernel: Kernel) -> int:
    """Floating-point operations of one call, two a multiply-add; 0 where a size is not known.

    A function such as an exponential counts as one.
    """
    total = 0
    for op in kernel.blocks:
        extents = loop_extents(op)
        if not is_fill(op) and all(extent > 0 for extent in extents):
            times = times_computed(op, extents)
            total += _rounds(op) * sum(count for inner, count in times if _computes(inner))
    return total


def _rounds(op: ir.OpView) -> int:
    """How often the loops around an operation come to it."""
    count, parent = 1, op.operation.parent
    while parent is not None and not isinstance(parent.opview, func.FuncOp):
        if isinstance(parent.opview, scf.ForOp):
            count *= trip_count(parent.opview)
        parent = parent.parent
    return max(count, 0)


def _computes(op: ir.OpView) -> bool:
    name = op.operation.name
    floating = any(isinstance(result.type, ir.FloatType) for result in op.operation.results)
    return floating and name.startswith(("arith.", "math.")) and not name.startswith(_MOVES)


def nbytes(function: func.FuncOp) -> int:
    """Bytes of the arguments and results of a kernel; 0 where a size is not known.

    Its results are arguments. Of an argument from which it only picks elements, such as a
    table of embeddings, it reads as many as its largest operation has iterations.
    """
    is_kernel = "mlcflow.kernel" in function.attributes
    kernel = read_kernel(function)
    steps = math.prod(kernel.loops) if kernel is not None and kernel.is_static else 0
    total = 0
    for argument in function.arguments:
        uses = [use.owner.name for use in argument.uses]
        sparse = bool(uses) and all(name in _SPARSE for name in uses)
        size = _size(argument.type)
        if size is None:
            return 0
        count, width = size
        total += width * (min(count, steps) if sparse and steps else count)
    for kind in [] if is_kernel else function.type.results:
        size = _size(kind)
        if size is None:
            return 0
        total += size[0] * size[1]
    return total


def _size(kind: ir.Type) -> tuple[int, int] | None:
    """Elements of a type, and bytes of each."""
    shaped = ir.ShapedType(kind) if isinstance(kind, ir.ShapedType) else None
    element = shaped.element_type if shaped else kind
    if shaped and not shaped.has_static_shape:
        return None
    bits = element.width if isinstance(element, ir.IntegerType | ir.FloatType) else 64
    return math.prod(shaped.shape if shaped else ()), max(8, bits) // 8
