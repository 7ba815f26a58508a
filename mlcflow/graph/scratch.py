"""Memory that kernels work in: each thread has its own, and the caller lends it.

To allocate it at every call would cost more than many kernels take.
"""

from __future__ import annotations

from collections.abc import Callable

from mlcflow.graph.interface import entry_points, set_arguments
from mlcflow.graph.memory import ALIGNMENT, SCRATCH, buffer_bytes, touches
from mlcflow.graph.outline import kernels
from mlcflow.mlir import arith, func, ir, memref, scf, tensor, walk
from mlcflow.schedule.labels import PARALLEL
from mlcflow.target import Target


def separate_iterations(module: ir.Module) -> None:
    """Give each iteration of a marked loop the empty tensors that it works in.

    One ``tensor.empty`` outside of the loop would become one buffer, in which all threads
    write. Runs right before bufferization: CSE would move it out again.
    """
    for loop in marked_loops(module):
        first = loop.body.operations[0]
        for op in walk(loop):
            for number, value in enumerate(op.operation.operands):
                producer = None if isinstance(value.owner, ir.Block) else value.owner.opview
                if isinstance(producer, tensor.EmptyOp) and not is_inside(producer, loop):
                    copy = producer.operation.clone(ip=ir.InsertionPoint(first))
                    op.operation.operands[number] = copy.result


def separate_values(module: ir.Module) -> None:
    """Give each value of the graph the empty tensor that it is written into.

    CSE makes one of all that have a type, and bufferization then keeps several values in one
    buffer, which lives from the first to the last of them. Apart, they have short lives, and
    the memory plan finds them places.
    """
    for function in entry_points(module):
        for op in walk(function):
            if isinstance(op, tensor.EmptyOp):
                for use in list(op.result.uses)[1:]:
                    copy = op.operation.clone(ip=ir.InsertionPoint(op))
                    use.owner.operands[use.operand_number] = copy.result


def hoist_buffers(module: ir.Module) -> None:
    """Move buffers out of loops, but not out of parallel ones, whose iterations need their own.

    As upstream's ``buffer-loop-hoisting``, which does not know of the marks. Applies to
    buffers of known size that do not leave their loop.
    """
    for op in walk(module.operation):
        if isinstance(op, memref.AllocOp) and not op.operation.operands:
            target = None
            for loop in _loops_around(op):
                if PARALLEL in loop.attributes or _is_carried(op.result, set()):
                    break
                target = loop
            if target is not None:
                op.operation.move_before(target.operation)


def _loops_around(op: ir.OpView) -> list[scf.ForOp]:
    """The loops directly around ``op``, innermost first."""
    found = []
    parent = op.operation.parent.opview
    while isinstance(parent, scf.ForOp):
        found.append(parent)
        parent = parent.operation.parent.opview
    return found


def _is_carried(value: ir.Value, seen: set[ir.Value]) -> bool:
    """Whether a region hands the buffer ``value``, or a view of it, on to what is around it."""
    if value in seen:
        return False
    seen.add(value)
    for use in value.uses:
        if use.owner.operation.name in ("scf.yield", "scf.condition"):
            return True
        views = [r for r in use.owner.results if isinstance(r.type, ir.MemRefType)]
        if any(_is_carried(view, seen) for view in views):
            return True
    return False


def lend_scratch(target: Target) -> Callable[[ir.Module], None]:
    """A step that makes allocations in kernels arguments, which each call then passes.

    Buffers of known size only. A buffer inside a parallel loop becomes a piece of an argument
    that has one for each core of ``target``; which thread takes which is decided when the loop
    is lowered, until then all take the first. ``plan_memory`` finds a place for what ``@main``
    passes. Runs on memrefs, before anything is freed.
    """

    def lend_scratch_to_kernels(module: ir.Module) -> None:
        calls: dict[str, list[func.CallOp]] = {}
        for op in walk(module.operation):
            if isinstance(op, func.CallOp):
                calls.setdefault(op.callee.value, []).append(op)
        for kernel in kernels(module):
            added = _take_buffers(kernel) + _take_pieces(kernel, target.cores)
            if added:
                for call in calls.get(kernel.name.value, []):
                    _pass(call, added)

    return lend_scratch_to_kernels


def _take_buffers(kernel: func.FuncOp) -> list[ir.MemRefType]:
    """Turn the allocations of the function into arguments; gives their types."""
    block = kernel.entry_block
    number = {op: index for index, op in enumerate(block.operations)}
    found = [op for op in number if _is_static(op) and touches(op.memref, number) is not None]
    types = [ir.MemRefType(op.memref.type) for op in found]
    for op, kind in zip(found, types, strict=True):
        op.memref.replace_all_uses_with(_add_argument(kernel, kind, {}))
        op.operation.erase()
    return types


def _take_pieces(kernel: func.FuncOp, cores: int) -> list[ir.MemRefType]:
    """Turn the allocations in parallel loops into pieces of one argument; gives its type."""
    found = [op for op in walk(kernel) if _is_static(op) and _is_private(op)]
    if not found:
        return []
    i8 = ir.IntegerType.get_signless(8)
    starts = [0]
    for op in found:
        starts.append(starts[-1] + buffer_bytes(ir.MemRefType(op.memref.type)))
    kind = ir.MemRefType.get([cores * starts[-1]], i8)
    size = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), starts[-1])
    argument = _add_argument(kernel, kind, {SCRATCH: size})
    for op, start in zip(found, starts, strict=False):
        with ir.InsertionPoint.at_block_begin(kernel.entry_block), op.location:
            shift = arith.constant(ir.IndexType.get(), start)
            view = memref.view(op.memref.type, argument, shift, [])
        op.memref.replace_all_uses_with(view)
        op.operation.erase()
    return [kind]


def _is_static(op: ir.OpView) -> bool:
    return isinstance(op, memref.AllocOp) and ir.MemRefType(op.memref.type).has_static_shape


def _is_private(op: ir.OpView) -> bool:
    """Whether a buffer lives within one iteration of a parallel loop, directly in its body."""
    parent = op.operation.parent.opview
    return isinstance(parent, scf.ForOp) and PARALLEL in parent.attributes


def _add_argument(
    kernel: func.FuncOp, kind: ir.MemRefType, attributes: dict[str, ir.Attribute]
) -> ir.Value:
    """Append an argument to a kernel."""
    known = [ir.DictAttr.get({}) for _ in kernel.type.inputs]
    if "arg_attrs" in kernel.attributes:
        known = list(ir.ArrayAttr(kernel.attributes["arg_attrs"]))
    argument = kernel.entry_block.add_argument(kind, kernel.location)
    set_arguments(kernel, [*known, ir.DictAttr.get(attributes)])
    return argument


def _pass(call: func.CallOp, types: list[ir.MemRefType]) -> None:
    """Give a call memory of these types, allocated once in the function that calls."""
    outermost = call.operation
    while not isinstance(outermost.parent.opview, func.FuncOp):
        outermost = outermost.parent
    with ir.InsertionPoint(outermost), call.location:
        added = [memref.alloc(kind, [], [], alignment=ALIGNMENT) for kind in types]
        for value in added:
            value.owner.attributes[SCRATCH] = ir.StringAttr.get(call.callee.value)
    results = [result.type for result in call.results]
    with ir.InsertionPoint(call), call.location:
        longer = func.CallOp(results, call.callee.value, [*call.operands, *added])
    for name in call.attributes:
        longer.attributes[name] = call.attributes[name]
    for old, new in zip(call.results, longer.results, strict=True):
        old.replace_all_uses_with(new)
    call.operation.erase()


def marked_loops(module: ir.Module) -> list[scf.ForOp]:
    """The loops that a schedule marked as parallel."""
    return [
        op
        for op in walk(module.operation)
        if isinstance(op, scf.ForOp) and PARALLEL in op.attributes
    ]


def is_inside(op: ir.OpView, loop: ir.OpView | ir.Operation) -> bool:
    """Whether ``op`` is nested in ``loop``."""
    parent = op.operation.parent
    while parent is not None and parent != loop.operation:
        parent = parent.parent
    return parent is not None
