"""Results too large for the cache are written past it."""

from __future__ import annotations

import math

from mlcflow.graph.interface import ENTRY_POINTS, names_of
from mlcflow.graph.memory import VIEWS, buffer_bytes
from mlcflow.graph.outline import kernels
from mlcflow.mlir import affine, arith, func, ir, memref, scf, vector, walk
from mlcflow.pipeline import Step
from mlcflow.runtime.frame import ALIGNED_BYTES, ALIGNMENT
from mlcflow.target import Target

DYNAMIC = ir.ShapedType.get_dynamic_size()


def stream_results(target: Target) -> Step:
    """A step: kernels write large results of ``@main`` with non-temporal stores.

    A plain store first reads the line that it changes; where whole lines are written, that is
    a third of the traffic of a kernel that reads as much as it writes. A result of more than
    half of the last cache has left it before the caller reads it anyway. Only whole lines
    that start where a line does are written so: the executable places large results there.
    """
    least = max(ALIGNED_BYTES, target.caches[-1] // 2)

    def stream(module: ir.Module) -> None:
        streamed = _large_results(module, least)
        for function in kernels(module):
            for number in streamed.get(function.name.value, ()):
                _stream(function.arguments[number])

    return stream


def _large_results(module: ir.Module, least: int) -> dict[str, set[int]]:
    """The arguments of each kernel that are a large result of ``@main`` in all of its calls."""
    found: dict[str, set[int]] = {}
    for function in module.body.operations:
        if not isinstance(function, func.FuncOp) or function.name.value not in ENTRY_POINTS:
            continue
        results = [
            argument
            for argument, name in zip(function.arguments, names_of(function, "output"), strict=True)
            if name is not None and function.name.value == ENTRY_POINTS[0]
        ]
        for call in walk(function):
            if not isinstance(call, func.CallOp):
                continue
            large = {
                number
                for number, operand in enumerate(call.operands)
                if isinstance(operand.type, ir.MemRefType)
                and ir.MemRefType(operand.type).has_static_shape
                and buffer_bytes(ir.MemRefType(operand.type)) >= least
                and _reshaped(operand) in results
            }
            callee = call.callee.value
            found[callee] = found.get(callee, large) & large
    return found


def _reshaped(value: ir.Value) -> ir.Value:
    """The memory that ``value`` is in another shape."""
    while not isinstance(value.owner, ir.Block) and isinstance(
        value.owner.opview, memref.CollapseShapeOp | memref.ExpandShapeOp
    ):
        value = value.owner.operands[0]
    return value


def _stream(argument: ir.Value) -> None:
    """Mark the stores to ``argument``, unless something else is done with its memory."""
    stores, pending = [], [argument]
    while pending:
        for use in pending.pop().uses:
            op = use.owner.opview
            if op.operation.name in VIEWS:
                pending.append(op.results[0])
            elif (
                isinstance(op, vector.StoreOp) and op.base == use.owner.operands[use.operand_number]
            ):
                stores.append(op)
            else:
                return  # what is read again should be in the cache
    for store in stores:
        kind = ir.VectorType(store.valueToStore.type)
        width = kind.element_type.width // 8
        line = math.prod(kind.shape) * width
        if line % ALIGNMENT == 0 and _place(store) * width % ALIGNMENT == 0:
            store.operation.attributes["nontemporal"] = ir.BoolAttr.get(True)
            i64 = ir.IntegerType.get_signless(64)
            store.operation.attributes["alignment"] = ir.IntegerAttr.get(i64, ALIGNMENT)


def _place(store: vector.StoreOp) -> int:
    """A number that divides the place of ``store`` in its argument, counted in elements."""
    strides, _ = ir.MemRefType(store.base.type).get_strides_and_offset()
    terms = [_multiple(i) * s for i, s in zip(store.indices, strides, strict=True)]
    base = store.base
    while not isinstance(base.owner, ir.Block):
        view = base.owner.opview
        if not isinstance(view, memref.SubViewOp):
            base = view.operands[0]  # another shape of the same memory
            continue
        strides, _ = ir.MemRefType(view.source.type).get_strides_and_offset()
        dynamic = iter(view.offsets)
        offsets = [
            _multiple(next(dynamic)) if offset == DYNAMIC else offset
            for offset in view.static_offsets
        ]
        terms += [o * s for o, s in zip(offsets, strides, strict=True)]
        base = view.source
    return math.gcd(*terms)


def _multiple(index: ir.Value) -> int:
    """A number that divides ``index`` whatever it is at run time; 0 if it is 0."""
    if isinstance(index.owner, ir.Block):
        loop = index.owner.owner.opview
        if isinstance(loop, scf.ForOp) and index == loop.induction_variable:
            return math.gcd(_multiple(loop.lowerBound), _multiple(loop.step))
        return 1
    op = index.owner.opview
    if isinstance(op, arith.ConstantOp):
        return op.literal_value
    if isinstance(op, affine.AffineMinOp | affine.AffineApplyOp):
        values = [_multiple(value) for value in op.operands]
        return math.gcd(*(_divisor(each, values, op.map.n_dims) for each in op.map.results))
    return 1


def _divisor(expression: ir.AffineExpr, values: list[int], dims: int) -> int:
    """A number that divides ``expression`` of operands that ``values`` divide."""
    if isinstance(expression, ir.AffineConstantExpr):
        return expression.value
    if isinstance(expression, ir.AffineDimExpr):
        return values[expression.position]
    if isinstance(expression, ir.AffineSymbolExpr):
        return values[dims + expression.position]
    parts = [_divisor(each, values, dims) for each in (expression.lhs, expression.rhs)]
    if isinstance(expression, ir.AffineAddExpr):
        return math.gcd(*parts)
    return math.prod(parts) if isinstance(expression, ir.AffineMulExpr) else 1
