"""The operations that :func:`to_python` knows, each as statements of Python."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable

from mlcflow.frontends.tensor_program.print_generic import print_generic
from mlcflow.frontends.tensor_program.print_scalars import constant_of
from mlcflow.frontends.tensor_program.print_values import (
    Empty,
    PySize,
    Splat,
    View,
    plain,
    shifted,
    sliced,
    split,
    squeezed,
)
from mlcflow.frontends.tensor_program.printer import Printer
from mlcflow.mlir import ir


def _shape(printer: Printer, kind: ir.Type, dynamic: Iterable[ir.Value]) -> tuple[PySize, ...]:
    """The shape of a tensor type whose open sizes are the values ``dynamic``."""
    tensor, rest = ir.RankedTensorType(kind), iter(dynamic)
    sizes: list[PySize] = []
    for number in range(tensor.rank):
        is_open = tensor.is_dynamic_dim(number)
        sizes.append(printer.sizes.get(next(rest), "?") if is_open else tensor.shape[number])
    return tuple(sizes)


def _constant(printer: Printer, op: ir.OpView) -> None:
    result = op.operation.results[0]
    found = constant_of(result)
    if isinstance(result.type, ir.RankedTensorType):
        if found is None:
            printer.problem(op, f"a constant of type {result.type} with different elements")
            found = ast.Constant(0)
        printer.values[result] = Splat(tuple(ir.RankedTensorType(result.type).shape), found)
    elif isinstance(found, ast.Constant) and isinstance(found.value, int):
        printer.sizes[result] = found.value


def _empty(printer: Printer, op: ir.OpView) -> None:
    result = op.operation.results[0]
    printer.values[result] = Empty(_shape(printer, result.type, op.operation.operands))


def _dim(printer: Printer, op: ir.OpView) -> None:
    source, number = op.operation.operands
    position = printer.sizes.get(number)
    if source in printer.values and isinstance(position, int):
        printer.sizes[op.operation.results[0]] = printer.values[source].shape[position]
    else:
        printer.problem(op, "tensor.dim of an unknown dimension")


def _integers(op: ir.OpView, name: str) -> list[int]:
    return list(ir.DenseI64ArrayAttr(op.operation.attributes[name]))


def _slice(printer: Printer, op: ir.OpView, kind: ir.Type) -> Callable[[View], View] | None:
    """The slice that an operation takes or replaces, of tensor type ``kind``."""
    dynamic = ir.ShapedType.get_dynamic_size()
    offsets, sizes, strides = (
        _integers(op, f"static_{name}") for name in ("offsets", "sizes", "strides")
    )
    if dynamic in offsets + strides:
        printer.problem(op, f"{op.operation.name} with an offset known at run time only")
        return None
    values = list(op.operation.operands)[2 if "insert" in op.operation.name else 1 :]
    rest = iter(values)
    known = [printer.sizes.get(next(rest), "?") if s == dynamic else s for s in sizes]
    surplus = len(sizes) - ir.RankedTensorType(kind).rank
    dropped: list[bool] = []
    for size in sizes:
        drop = size == 1 and sum(dropped) < surplus
        dropped.append(drop)
    shape = tuple(s for s, drop in zip(known, dropped, strict=True) if not drop)
    return lambda view: sliced(view, shape, offsets, strides, dropped)


def _extract_slice(printer: Printer, op: ir.OpView) -> None:
    result = op.operation.results[0]
    take = _slice(printer, op, result.type)
    state = printer.values[op.operation.operands[0]]
    if take is not None:
        shape = take(View(state.shape, "", plain)).shape
        if isinstance(state, View):
            printer.values[result] = take(state)
        else:
            same = Splat(shape, state.value) if isinstance(state, Splat) else Empty(shape)
            printer.values[result] = same


def _insert_slice(printer: Printer, op: ir.OpView) -> None:
    tile, old = op.operation.operands[0], op.operation.operands[1]
    result = op.operation.results[0]
    take = _slice(printer, op, tile.type)
    buffer = printer.destination(op, old, result)
    printer.values[result] = buffer
    state = printer.values[tile]
    if take is not None and not isinstance(state, Empty):
        printer.copy(state, take(buffer), state.shape)


def _pad(printer: Printer, op: ir.OpView) -> None:
    result, source = op.operation.results[0], op.operation.operands[0]
    low, high = _integers(op, "static_low"), _integers(op, "static_high")
    block = op.operation.regions[0].blocks[0]
    value = constant_of(block.operations[len(block.operations) - 1].operands[0])
    state = printer.values[source]
    constant = value is not None and len(block.operations) <= 2
    if min([*low, *high], default=0) < 0 or not constant or isinstance(state, Empty):
        printer.problem(op, "tensor.pad that is not by a constant, or not by known sizes")
        return
    shape = _shape(printer, result.type, [])
    buffer = printer.buffer(result, shape)
    printer.copy(Splat(shape, value), buffer, shape)  # type: ignore[arg-type]
    inside = View(
        state.shape,
        buffer.name,
        lambda index: [shifted(part, 1, offset) for part, offset in zip(index, low, strict=True)],
    )
    printer.copy(state, inside, state.shape)
    printer.values[result] = buffer


def _reshape(printer: Printer, op: ir.OpView) -> None:
    result, source = op.operation.results[0], op.operation.operands[0]
    groups = [
        [ir.IntegerAttr(n).value for n in ir.ArrayAttr(group)]
        for group in ir.ArrayAttr(op.operation.attributes["reassociation"])
    ]
    state = printer.values[source]
    expands = op.operation.name == "tensor.expand_shape"
    shape = _shape(printer, result.type, list(op.operation.operands)[1:])
    if not isinstance(state, View):
        same = Splat(shape, state.value) if isinstance(state, Splat) else Empty(shape)
        printer.values[result] = same
        return
    found = (split if expands else squeezed)(state, shape, groups)
    if found is None and not expands and not any(isinstance(s, str) for s in state.shape):
        found = _merge(printer, state, result, shape, groups)
    if found is None:
        printer.problem(op, f"{op.operation.name} from {source.type} to {result.type}")
        found = View(shape, state.name, plain)
    printer.values[result] = found


def _merge(
    printer: Printer,
    source: View,
    result: ir.Value,
    shape: tuple[PySize, ...],
    groups: list[list[int]],
) -> View:
    """A new buffer that holds ``source`` with dimensions merged: no index into it would do."""
    buffer = printer.buffer(result, shape)
    view = split(buffer, source.shape, groups)
    assert view is not None  # sizes are known
    printer.copy(source, view, source.shape)
    return buffer


def _return(printer: Printer, op: ir.OpView) -> None:
    names: list[str] = []
    for value in op.operation.operands:
        state = printer.values.get(value)
        if state is None or isinstance(state, Empty):
            if not printer.problems:  # else it is a consequence of those
                printer.problem(op, f"a result of type {value.type} without elements")
            continue
        if not (isinstance(state, View) and state.owned) or state.name in names:
            buffer = printer.buffer(value, state.shape)
            printer.copy(state, buffer, state.shape)
            state = buffer
        names.append(state.name)
    results: list[ast.expr] = [ast.Name(name) for name in names]
    printer.statements.append(ast.Return(results[0] if len(results) == 1 else ast.Tuple(results)))


HANDLERS: dict[str, Callable[[Printer, ir.OpView], None]] = {
    "arith.constant": _constant,
    "tensor.empty": _empty,
    "tensor.dim": _dim,
    "tensor.extract_slice": _extract_slice,
    "tensor.insert_slice": _insert_slice,
    "tensor.pad": _pad,
    "tensor.expand_shape": _reshape,
    "tensor.collapse_shape": _reshape,
    "linalg.generic": print_generic,
    "func.return": _return,
}
