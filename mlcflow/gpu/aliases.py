"""Which arguments of a kernel share memory with no other, so that loads may move across stores."""

from __future__ import annotations

from mlcflow.gpu.memory import size_of, unit_of
from mlcflow.mlir import func, gpu, ir, memref, walk

ALIGNMENT = 16
"""Bytes at whose multiples arrays begin: the driver gives 256, the memory plan 64."""


def mark_distinct_arguments(module: ir.Module) -> None:
    """Mark the array arguments of kernels ``llvm.noalias`` where every launch shows it.

    Buffers that live at the same time do not overlap, in the memory plan as on the device; one
    buffer may still be passed twice, whole or as views.
    """
    calls = [op for op in walk(module.operation) if isinstance(op, func.CallOp)]
    kernels = {
        op.attributes["sym_name"]: op
        for op in walk(module.operation)
        if isinstance(op, gpu.GPUFuncOp)
    }
    for launch in [op for op in walk(module.operation) if isinstance(op, gpu.LaunchFuncOp)]:
        operands = list(launch.kernelOperands)
        kernel = kernels[ir.StringAttr.get(str(launch.attributes["kernel"]).split("@")[-1])]
        distinct = set(range(len(operands)))
        for buffers in _passed(operands, launch, calls):
            distinct &= {n for n, buffer in enumerate(buffers) if buffers.count(buffer) == 1}
        _mark(kernel, distinct)


def _passed(
    operands: list[ir.Value], launch: gpu.LaunchFuncOp, calls: list[func.CallOp]
) -> list[list[object]]:
    """The buffers behind the operands of a launch, for each call of the function it is in."""
    roots = [_buffer(value) for value in operands]
    function = launch.operation.parent
    while not isinstance(function.opview, func.FuncOp):
        function = function.parent
    name, arguments = function.opview.name.value, list(function.opview.arguments)
    sites = [call for call in calls if call.callee.value == name]
    if not sites:
        return [roots]
    return [
        [_buffer(call.operands[arguments.index(r)]) if r in arguments else r for r in roots]
        for call in sites
    ]


def _buffer(value: ir.Value) -> object:
    """What stands for the memory of ``value``: two that are equal may overlap."""
    while not isinstance(value.owner, ir.Block):
        op = value.owner.opview
        if isinstance(op, memref.ViewOp):
            return op.source, op.byte_shift
        if not op.operation.operands or not isinstance(
            op.operation.operands[0].type, ir.MemRefType | ir.UnrankedMemRefType
        ):
            break
        value = op.operation.operands[0]
    return value


def _mark(kernel: gpu.GPUFuncOp, distinct: set[int]) -> None:
    i64 = ir.IntegerType.get_signless(64)
    attributes = []
    for number, kind in enumerate(ir.FunctionType(kernel.function_type.value).inputs):
        entries: dict[str, ir.Attribute] = {}
        if isinstance(kind, ir.MemRefType):
            entries["llvm.align"] = ir.IntegerAttr.get(i64, ALIGNMENT)
            if number in distinct:
                entries["llvm.noalias"] = ir.UnitAttr.get()
        attributes.append(ir.DictAttr.get(entries))
    kernel.attributes["arg_attrs"] = ir.ArrayAttr.get(attributes)
    shared = list(kernel.regions[0].blocks[0].arguments)[len(attributes) :]
    if shared:  # of the blocks; asynchronous copies and tensor cores fail where it is less
        units = [unit_of(size_of(ir.MemRefType(value.type))) for value in shared]
        marks = [ir.DictAttr.get({"llvm.align": ir.IntegerAttr.get(i64, unit)}) for unit in units]
        kernel.attributes["workgroup_attrib_attrs"] = ir.ArrayAttr.get(marks)
