"""The passes that take the body of a kernel to the NVVM dialect."""

from __future__ import annotations

import math
from collections.abc import Callable

from mlcflow.gpu.tensor_maps import pass_by_value, take_tensor_maps
from mlcflow.mlir import arith, gpu, gpu_transform, ir, passmanager, transform, walk
from mlcflow.passes import Pass
from mlcflow.pipeline import Step
from mlcflow.schedule.interpret import Handle, apply
from mlcflow.target import Target

KERNEL = "gpu.module"


def to_nvvm(*, fast_math: bool) -> tuple[Step, ...]:
    """From a ``gpu.module`` of loops on memory to one in the NVVM dialect.

    ``fast_math`` lets the product and the sum of ``a * b + c`` be rounded once.
    """
    return (
        Pass("lower-affine", on=KERNEL),
        Pass("convert-nvgpu-to-nvvm", on=KERNEL),
        Pass("convert-vector-to-scf", on=KERNEL),
        Pass("convert-scf-to-cf", on=KERNEL),
        *((allow_contraction,) if fast_math else ()),
        Pass("memref-expand", on=KERNEL),
        Pass("convert-complex-to-standard", on=KERNEL),
        Pass("expand-strided-metadata", on=KERNEL),
        Pass("lower-affine", on=KERNEL),
        Pass("convert-complex-to-llvm", on=KERNEL),
        # Not with the alignment of vectors: a tile may begin anywhere, and a load that is not
        # aligned as it says ends all work on the device. LLVM finds out where it is.
        Pass("convert-vector-to-llvm", on=KERNEL),
        lower_kernels,
        # What is in NVVM's dialect and not in LLVM's NVPTX, such as wgmma, as PTX.
        Pass("convert-nvvm-to-llvm", on=KERNEL),
        Pass("canonicalize"),
        Pass("reconcile-unrealized-casts"),
    )


def name_kernels(module: ir.Module) -> None:
    """Give each kernel the name of its module, which is the only one of that name."""
    for op in walk(module.operation):
        if isinstance(op, gpu.LaunchFuncOp):
            name = str(ir.SymbolRefAttr(op.attributes["kernel"]).value[0])
            op.attributes["kernel"] = ir.SymbolRefAttr.get([name, name])
        elif isinstance(op, gpu.GPUModuleOp):
            for function in op.regions[0].blocks[0]:
                if isinstance(function, gpu.GPUFuncOp):
                    function.attributes["sym_name"] = op.attributes["sym_name"]


def lower_all_reduce(module: ir.Module) -> None:
    """Reductions over a block as shuffles within warps, and shared memory between them."""
    for kernels in module.body.operations:
        if isinstance(kernels, gpu.GPUModuleOp) and any(
            isinstance(op, gpu.AllReduceOp) for op in walk(kernels)
        ):
            apply(kernels, _rewrite)


def _rewrite(root: Handle) -> None:
    with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
        gpu_transform.ApplyGPURewritePatternsOp()


def allow_contraction(module: ir.Module) -> None:
    """Let products and sums in kernels become one instruction."""
    flag = ir.Attribute.parse("#arith.fastmath<contract>")
    for kernels in module.body.operations:
        if isinstance(kernels, gpu.GPUModuleOp):
            for op in walk(kernels):
                if isinstance(op, arith.MulFOp | arith.AddFOp | arith.SubFOp):
                    op.attributes["fastmath"] = flag


def lower_kernels(module: ir.Module) -> None:
    """Convert each ``gpu.module``; its memory comes as bare pointers where these say it all."""
    for kernels in module.body.operations:
        if isinstance(kernels, gpu.GPUModuleOp):
            functions = [op for op in kernels.regions[0].blocks[0] if isinstance(op, gpu.GPUFuncOp)]
            for function in functions:
                take_tensor_maps(function)
            bare = int(all(map(takes_bare_pointers, functions)))
            options = f"index-bitwidth=64 use-bare-ptr-memref-call-conv={bare}"
            text = f"gpu.module(convert-gpu-to-nvvm{{{options}}})"
            passmanager.PassManager.parse(text).run(kernels.operation)
            pass_by_value(kernels)


_OF_WARPS = ("nvvm.mma.sync", "nvvm.shfl.sync")


def keep_registers(target: Target) -> Callable[[ir.Module], None]:
    """A step that lets kernels whose warps hold tiles, and no more blocks than there are
    multiprocessors, have all registers.

    Else the assembler may write some to memory, so that several blocks fit on one.
    """

    def ask_for_one_block(module: ir.Module) -> None:
        for op in walk(module.operation):
            if "gpu.known_grid_size" in op.operation.attributes:
                sizes = ir.DenseI32ArrayAttr(op.attributes["gpu.known_grid_size"])
                by_warps = any(inner.operation.name in _OF_WARPS for inner in walk(op))
                if by_warps and math.prod(sizes) <= target.cores:
                    one = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 1)
                    op.attributes["nvvm.minctasm"] = one

    return ask_for_one_block


def takes_bare_pointers(function: gpu.GPUFuncOp) -> bool:
    """Whether each array argument has a known shape and no gaps."""
    kinds = ir.FunctionType(function.function_type.value).inputs
    return all(is_plain(kind) for kind in kinds)


def is_plain(kind: ir.Type) -> bool:
    """Whether a pointer alone stands for a value of this type."""
    if not isinstance(kind, ir.MemRefType):
        return True
    array = ir.MemRefType(kind)
    return array.has_static_shape and array.affine_map == ir.AffineMap.get_identity(array.rank)
