"""How kernels take their arguments in the LLVM dialect."""

from __future__ import annotations

from mlcflow.graph.outline import kernels
from mlcflow.mlir import ir


def pass_bare_pointers(module: ir.Module) -> None:
    """Let kernels take a pointer for each array instead of a descriptor of up to a dozen words.

    All else about an array of static shape is in its type. ``@main`` and ``@prepare`` of
    ResNet-50 otherwise consist of thousands of scalars, over which LLVM's instruction
    selection takes four times as long as over all kernels. Upstream: ``llvm.bareptr``, see
    https://mlir.llvm.org/docs/TargetLLVMIR/#bare-pointer-calling-convention-for-ranked-memref.
    """
    for function in kernels(module):
        if not function.type.results and all(_is_plain(kind) for kind in function.type.inputs):
            function.attributes["llvm.bareptr"] = ir.UnitAttr.get()


def _is_plain(kind: ir.Type) -> bool:
    """Whether a value of this type is a scalar, or an array whose type says all about it."""
    if not isinstance(kind, ir.MemRefType):
        return not isinstance(kind, ir.UnrankedMemRefType)
    shaped = ir.MemRefType(kind)
    identity = ir.AffineMap.get_identity(shaped.rank)
    # Upstream converts calls with arrays of no elements, but not the functions they call.
    has_elements = shaped.has_static_shape and 0 not in shaped.shape
    return has_elements and shaped.layout == ir.AffineMapAttr.get(identity)
