"""Calls of library functions: made from linalg operations, and brought into memory.

On tensors such a call is opaque: nothing is fused into it, and it is where a schedule put it.
For the conversion to memory it becomes what it computes, a linalg operation with the attribute
``mlcflow.library``, which upstream knows how to do in place; after it, a call on memory. A
lowering that does not know the attribute computes the operation itself, which is how a library
is compared with what it says of itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlcflow import mlir
from mlcflow.errors import LoweringError, MlcflowError, ScheduleError
from mlcflow.frontends.tensor_program.einsum import einsum_function
from mlcflow.graph.linalg_ops import is_fill, is_linalg
from mlcflow.graph.same_operation import same_operation
from mlcflow.mlir import func, ir, memref, tensor, walk
from mlcflow.runtime.libraries import find_library
from mlcflow.runtime.library import PREFIX, Library

LIBRARY = "mlcflow.library"


def operands_for(library: Library, op: ir.OpView) -> list[int] | None:
    """The operands of ``op``, by number, in the order in which the function takes them.

    ``None`` if ``op`` does not compute what the function does.
    """
    owner, model = _described(library, op.context)
    order = same_operation(op, model)
    del owner  # the module of the model, which operations do not keep alive
    return order


def _described(library: Library, context: ir.Context) -> tuple[ir.Module, ir.OpView]:
    """What a library function computes as a linalg operation, and the module that owns it.

    Its inputs are in the order of the function's arguments; the sizes mean nothing.
    """
    indices = dict.fromkeys(index for names in library.arrays.values() for index in names)
    extents = {index: 2 + number for number, index in enumerate(indices)}
    *inputs, _ = library.arrays
    shapes = {name: tuple(extents[i] for i in library.arrays[name]) for name in inputs}
    program = einsum_function(
        library.computes, **{name: (shape, library.dtype) for name, shape in shapes.items()}
    )
    module = mlir.parse(mlir.asm(program.module), context)
    found = [op for op in walk(module.operation) if is_linalg(op) and not is_fill(op)]
    if len(found) != 1 or not all(isinstance(v.owner, ir.Block) for v in found[0].operands[:-1]):
        raise MlcflowError(
            f"library function '{library.name}': expected a statement that is one linalg "
            f"operation on its arrays, got {library.computes!r}"
        )
    order = [ir.BlockArgument(value).arg_number for value in found[0].operands[:-1]]
    if order != list(range(len(inputs))):
        raise MlcflowError(
            f"library function '{library.name}': {library.computes!r} does not read its arrays "
            "in order"
        )
    return module, found[0]


def replace_by_call(op: ir.OpView, library: Library) -> None:
    """Put a call in front of ``op``, and use what it gives instead of the result of ``op``.

    Raises ``ScheduleError`` if ``op`` does not compute what the function does.
    """
    order = operands_for(library, op)
    if order is None:
        raise ScheduleError(
            f"{op.operation.name} does not compute what '{library.name}' does: {library.computes}"
        )
    kinds = _tensor_types(library)
    declare(_module_of(op), library)
    with ir.InsertionPoint(op), op.location:
        arguments = [
            tensor.cast(kind, op.operands[number])
            for kind, number in zip(kinds, order, strict=True)
        ]
        call = func.CallOp(kinds[-1:], library.symbol, arguments)
        result = tensor.cast(op.results[0].type, call.results[0])
    op.results[0].replace_all_uses_with(result)


def declare(module: ir.Operation, library: Library) -> None:
    """Declare the function on tensors, where it is not declared."""
    symbols = ir.SymbolTable(module)
    if library.symbol not in symbols:
        kinds = _tensor_types(library)
        with ir.InsertionPoint(module.regions[0].blocks[0]), ir.Location.unknown(module.context):
            function = func.FuncOp(library.symbol, (kinds, kinds[-1:]), visibility="private")
            function.attributes[LIBRARY] = ir.StringAttr.get(library.name)


def declare_called(module: ir.Module) -> None:
    """Declare the library functions that a module calls, such as one kernel of another module."""
    for call in walk(module.operation):
        if isinstance(call, func.CallOp) and call.callee.value.startswith(PREFIX):
            declare(module.operation, find_library(call.callee.value.removeprefix(PREFIX)))


def _tensor_types(library: Library) -> list[ir.Type]:
    element = _element(library)
    open_size = ir.ShapedType.get_dynamic_size()
    return [
        ir.RankedTensorType.get([open_size] * len(indices), element)
        for indices in library.arrays.values()
    ]


def _element(library: Library) -> ir.Type:
    """The element type, in the current context."""
    names = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "bool": "i1"}
    return ir.Type.parse(names.get(library.dtype) or f"i{library.dtype.split('int')[-1]}")


def _module_of(op: ir.OpView) -> ir.Operation:
    parent = op.operation
    while parent.parent is not None:
        parent = parent.parent
    return parent


def spell_out_library_calls(module: ir.Module) -> None:
    """Turn calls on tensors into the operations that they stand for, marked with the name."""
    declarations = dict(_declared(module))
    for call in walk(module.operation):
        if isinstance(call, func.CallOp) and call.callee.value in declarations:
            name = declarations[call.callee.value].attributes[LIBRARY]
            _spell_out(call, find_library(ir.StringAttr(name).value))
    for declaration in declarations.values():
        declaration.operation.erase()


def _declared(module: ir.Module) -> Iterator[tuple[str, func.FuncOp]]:
    for op in module.body.operations:
        is_library = isinstance(op, func.FuncOp) and LIBRARY in op.attributes
        if is_library and any(isinstance(kind, ir.RankedTensorType) for kind in op.type.inputs):
            yield op.name.value, op


def _spell_out(call: func.CallOp, library: Library) -> None:
    owner, operation = _described(library, call.context)
    operands = [_uncast(value) for value in call.operands]
    with ir.InsertionPoint(call), call.location:
        copy = operation.operation.clone()
        for number, value in enumerate(operands):
            copy.operands[number] = value
        copy.results[0].set_type(operands[-1].type)
        copy.attributes[LIBRARY] = ir.StringAttr.get(library.name)
    try:
        copy.verify()
    except ir.MLIRError as error:
        raise LoweringError(
            f"library function '{library.name}' ({library.computes}) is called with arrays that "
            f"do not go together: {error}",
            op=str(call),
        ) from error
    del owner  # operations do not keep their module alive: not before here
    _use(copy.results[0], call)


def _use(result: ir.Value, call: func.CallOp) -> None:
    """Use ``result`` for that of ``call``, where it was cast back to the type it had."""
    for user in [use.owner.opview for use in call.results[0].uses]:
        if isinstance(user, tensor.CastOp) and user.result.type == result.type:
            user.result.replace_all_uses_with(result)
            user.operation.erase()
    if list(call.results[0].uses):
        with ir.InsertionPoint(call), call.location:
            call.results[0].replace_all_uses_with(tensor.cast(call.results[0].type, result))
    call.operation.erase()


def _uncast(value: ir.Value) -> ir.Value:
    """The tensor that was cast to one of open sizes for a call."""
    owner = value.owner
    if not isinstance(owner, ir.Block) and owner.operation.name == "tensor.cast":
        return owner.operands[0]
    return value


def call_libraries(module: ir.Module) -> None:
    """Turn the operations marked ``mlcflow.library``, on memory, into calls on memory."""
    for op in walk(module.operation):
        marked = op.operation.name.startswith("linalg.") and LIBRARY in op.operation.attributes
        if marked and not op.operation.results:
            _call(op, find_library(ir.StringAttr(op.operation.attributes[LIBRARY]).value))


def _call(op: ir.OpView, library: Library) -> None:
    kinds = _memory_types(library)
    _define(_module_of(op), library, kinds)
    with ir.InsertionPoint(op), op.location:
        arguments = []
        for kind, value, name in zip(kinds, op.operands, library.arrays, strict=True):
            cast = memref.CastOp(kind, value)
            try:
                cast.operation.verify()
            except ir.MLIRError as error:
                raise LoweringError(
                    f"library function '{library.name}' takes arrays whose rows are contiguous, "
                    f"and {name} is {value.type}",
                    op=op.operation.name,
                    location=str(op.location),
                ) from error
            arguments.append(cast.result)
        func.CallOp([], library.symbol, arguments)
    op.operation.erase()


def _memory_types(library: Library) -> list[ir.Type]:
    """Descriptors of any sizes, strides and offset; of rows without gaps if it asks for them."""
    open_size, open_stride = (
        ir.ShapedType.get_dynamic_size(),
        ir.ShapedType.get_dynamic_stride_or_offset(),
    )
    kinds = []
    for indices in library.arrays.values():
        rank = len(indices)
        strides = [open_stride] * rank
        if library.unit_stride and rank:
            strides[-1] = 1
        layout = ir.StridedLayoutAttr.get(open_stride, strides)
        kinds.append(ir.MemRefType.get([open_size] * rank, _element(library), layout))
    return kinds


def _define(module: ir.Operation, library: Library, kinds: list[ir.Type]) -> None:
    """Declare the function on memory, or add its adapter."""
    symbols = ir.SymbolTable(module)
    if library.symbol in symbols:
        return
    body = module.regions[0].blocks[0]
    if library.adapter is None:
        with ir.InsertionPoint(body), ir.Location.unknown(module.context):
            function = func.FuncOp(library.symbol, (kinds, []), visibility="private")
            function.attributes["llvm.emit_c_interface"] = ir.UnitAttr.get()
        return
    adapter = mlir.parse(library.adapter(), module.context)
    for op in adapter.body.operations:
        if ir.StringAttr(op.attributes["sym_name"]).value not in symbols:
            body.append(op.operation.clone(ip=False))
