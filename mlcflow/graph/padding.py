"""Kernels that write what they compute into the middle of a padded tensor."""

from __future__ import annotations

from mlcflow.graph.interface import entry_points
from mlcflow.graph.kernel import read_kernel
from mlcflow.graph.linalg_ops import is_copy, owner
from mlcflow.graph.outline import kernels, outline
from mlcflow.graph.window import read_window
from mlcflow.mlir import func, ir, linalg, tensor, walk


def pad_in_kernels(module: ir.Module) -> None:
    """Let the kernel whose result alone is padded write it into the padded tensor.

    The kernel fills the border and works in a slice of its destination, which costs no pass
    over memory. What is padded and also read elsewhere, or comes from another kind of kernel,
    is copied by a kernel of its own. Runs when kernels have their destinations and before equal
    ones are merged. Padding of unknown or negative width, or by computed values, stays.
    """
    symbols = ir.SymbolTable(module.operation)
    for function in entry_points(module):
        for op in walk(function):
            if isinstance(op, tensor.PadOp) and fixed_padding(op) is not None:
                called = {kernel.name.value: kernel for kernel in kernels(module)}
                kernel = _writer(op, called) or _copier(op, symbols)
                _write_inside(kernel, op)


def fixed_padding(op: tensor.PadOp) -> ir.Operation | None:
    """The constant by which ``op`` pads; ``None`` if it, or a width, is not known."""
    body = op.regions[0].blocks[0].operations
    value = body[len(body) - 1].operands[0]
    producer = owner(value)
    is_static = ir.RankedTensorType(op.result.type).has_static_shape
    if producer is None or producer.operation.name != "arith.constant" or not is_static:
        return None
    widths = [*op.static_low, *op.static_high]
    return producer.operation if min(widths, default=0) >= 0 else None


def _writer(op: tensor.PadOp, called: dict[str, func.FuncOp]) -> func.FuncOp | None:
    """The kernel that computes what ``op`` pads, if nothing else reads it."""
    call = owner(op.source)
    if not isinstance(call, func.CallOp) or call.callee.value not in called:
        return None
    function = called[call.callee.value]
    alone = len(list(op.source.uses)) == 1 and len(call.results) == 1
    return function if alone and _knows_borders(function) else None


def _knows_borders(function: func.FuncOp) -> bool:
    """Whether the schedule of the kernel works in a part of its destination.

    So do those of windows and of copies.
    """
    kernel = read_kernel(function)
    return kernel is not None and (read_window(kernel.root) is not None or is_copy(kernel.root))


def _copier(op: tensor.PadOp, symbols: ir.SymbolTable) -> func.FuncOp:
    """A new kernel between ``op`` and what it pads, which copies."""
    kind = ir.RankedTensorType(op.source.type)
    with ir.InsertionPoint(op), op.location:
        empty = tensor.empty(list(kind.shape), kind.element_type)
        copy = linalg.copy(op.source, outs=[empty])
    op.operation.operands[0] = copy
    function = outline([copy.owner.opview], "pad_kernel", symbols)
    for inner in walk(function):
        if inner.operation.name == "linalg.copy":
            inner.operation.operands[1] = function.arguments[1]
    return function


def _write_inside(kernel: func.FuncOp, op: tensor.PadOp) -> None:
    """Give ``kernel`` the padded tensor as its destination, in place of ``op``."""
    call, kind = op.source.owner.opview, ir.RankedTensorType(op.result.type)
    inputs = [*kernel.type.inputs[:-1], kind]
    kernel.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(inputs, [kind]))
    place = kernel.arguments[len(kernel.arguments) - 1]
    inner = ir.RankedTensorType(place.type)
    place.set_type(kind)
    position = (list(op.static_low), list(inner.shape), [1] * inner.rank)
    with ir.InsertionPoint.at_block_begin(kernel.entry_block), op.location:
        bordered, made = _fill_border(place, op)
        inside = tensor.extract_slice(inner, bordered, [], [], [], *position)
        others = [made_op.operation for made_op in (*made, inside.owner)]
        place.replace_all_uses_except(inside, others)
    end = kernel.entry_block.operations[len(kernel.entry_block.operations) - 1]
    with ir.InsertionPoint(end), op.location:
        whole = tensor.insert_slice(end.operands[0], bordered, [], [], [], *position)
        end.operation.operands[0] = whole
    with ir.InsertionPoint(op), op.location:
        fresh = tensor.empty(list(kind.shape), kind.element_type)
        arguments = [*list(call.operands)[:-1], fresh]
        new = func.CallOp([kind], kernel.name.value, arguments)
    op.result.replace_all_uses_with(new.results[0])
    op.operation.erase()
    call.operation.erase()


def _fill_border(place: ir.Value, op: tensor.PadOp) -> tuple[ir.Value, list[ir.Operation]]:
    """``place`` with its border filled, and the operations that do so.

    Two slabs for each dimension that is padded, each as wide as the earlier ones leave it.
    """
    kind = ir.RankedTensorType(place.type)
    constant = fixed_padding(op)
    assert constant is not None  # the caller has looked
    made = [constant.clone()]
    start, stop = [0] * kind.rank, list(kind.shape)
    for dim, (low, high) in enumerate(zip(op.static_low, op.static_high, strict=True)):
        for first, width in ((0, low), (kind.shape[dim] - high, high)):
            if width:
                offsets, sizes = list(start), [b - a for a, b in zip(start, stop, strict=True)]
                offsets[dim], sizes[dim] = first, width
                place = _fill_slab(place, made, offsets, sizes)
        start[dim], stop[dim] = low, kind.shape[dim] - high
    return place, made


def _fill_slab(
    place: ir.Value, made: list[ir.Operation], offsets: list[int], sizes: list[int]
) -> ir.Value:
    kind = ir.RankedTensorType(place.type)
    slab = ir.RankedTensorType.get(sizes, kind.element_type)
    position = (offsets, sizes, [1] * kind.rank)
    part = tensor.extract_slice(slab, place, [], [], [], *position)
    fill = linalg.fill(made[0].results[0], outs=[part])
    whole = tensor.insert_slice(fill, place, [], [], [], *position)
    made += [part.owner, fill.owner, whole.owner]
    return whole
