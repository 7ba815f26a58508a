"""Shared memory of a block beyond what a kernel may declare: the launch asks for it.

A kernel has one such piece of memory, whose size the launch says; the buffers are places in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlcflow.errors import LoweringError
from mlcflow.gpu.memory import SHARED, SHARED_BYTES, TILE, size_of, unit_of
from mlcflow.gpu.ptx import kernel_of
from mlcflow.mlir import arith, gpu, ir, llvm, memref, walk
from mlcflow.target import Target


def share_dynamically(target: Target) -> Callable[[ir.Module], None]:
    """A step that asks for the shared memory of large kernels at their launch.

    Kernels whose workgroup attributions take no more than ``SHARED_BYTES`` stay as they are.
    Buffers begin where :func:`mlcflow.gpu.memory.unit_of` says. Raises
    ``LoweringError`` for more than a block of the chip can have.
    """

    def share(module: ir.Module) -> None:
        needed = {}
        for op in walk(module.operation):
            if isinstance(op, gpu.GPUFuncOp):
                nbytes = _share(op, target)
                if nbytes:
                    needed[ir.StringAttr(op.attributes["sym_name"]).value] = nbytes
        for op in walk(module.operation):
            if isinstance(op, gpu.LaunchFuncOp) and kernel_of(op) in needed:
                _ask(op, needed[kernel_of(op)])

    return share


def declare_dynamic_memory(module: ir.Module) -> None:
    """Let what ``convert-gpu-to-nvvm`` makes of dynamic shared memory be memory of the launch.

    It leaves a variable of 0 bytes in each module, internal and aligned to 16 bytes.
    """
    external = ir.Attribute.parse("#llvm.linkage<external>")
    alignment = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), TILE)
    for op in walk(module.operation):
        if isinstance(op, llvm.GlobalOp) and _is_empty(op):
            op.attributes["linkage"], op.attributes["alignment"] = external, alignment


def _is_empty(op: llvm.GlobalOp) -> bool:
    kind = ir.TypeAttr(op.attributes["global_type"]).value
    return isinstance(kind, llvm.ArrayType) and kind.num_elements == 0


def _share(function: gpu.GPUFuncOp, target: Target) -> int:
    """Turn the shared buffers of a kernel into places in dynamic memory; gives its bytes."""
    body = function.regions[0].blocks[0]
    first = len(ir.FunctionType(function.function_type.value).inputs)
    buffers = list(body.arguments)[first:]
    sizes = [size_of(ir.MemRefType(buffer.type)) for buffer in buffers]
    places, end = lay_out(sizes)
    if end <= SHARED_BYTES:
        return 0
    if end > target.caches[0]:
        name = ir.StringAttr(function.attributes["sym_name"]).value
        raise LoweringError(
            f"a block of kernel '{name}' needs {end} bytes of shared memory; one of "
            f"{target.chip} can have {target.caches[0]}: make its tiles smaller, or fewer",
            location=str(function.location),
        )
    with ir.InsertionPoint.at_block_begin(body), function.location:
        whole = gpu.dynamic_shared_memory(ir.Type.parse(f"memref<?xi8, {SHARED}>"))
        for buffer, place in zip(buffers, places, strict=True):
            at = arith.constant(ir.IndexType.get(), place)
            buffer.replace_all_uses_with(memref.view(buffer.type, whole, at, []))
    for number in reversed(range(first, first + len(buffers))):
        body.erase_argument(number)
    for name in ("workgroup_attributions", "workgroup_attrib_attrs"):
        if name in function.attributes:
            del function.attributes[name]
    return end


def lay_out(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where buffers of so many bytes begin, and the bytes of all: whole tiles come first."""
    places, end = [0] * len(sizes), 0
    for number in sorted(range(len(sizes)), key=lambda n: -unit_of(sizes[n])):
        unit = unit_of(sizes[number])
        places[number] = -(-end // unit) * unit
        end = places[number] + sizes[number]
    return places, end


def _ask(launch: gpu.LaunchFuncOp, nbytes: int) -> None:
    """Let a launch bring so many bytes of shared memory for each block."""
    with ir.InsertionPoint(launch), launch.location:
        gpu.LaunchFuncOp(
            [str(name) for name in ir.SymbolRefAttr(launch.attributes["kernel"]).value],
            (launch.gridSizeX, launch.gridSizeY, launch.gridSizeZ),
            (launch.blockSizeX, launch.blockSizeY, launch.blockSizeZ),
            list(launch.kernelOperands),
            dynamic_shared_memory_size=arith.constant(ir.IntegerType.get_signless(32), nbytes),
        )
    launch.operation.erase()
