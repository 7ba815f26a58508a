"""The MLIR bindings: imported here only, from the ``torch_mlir`` wheel.

Everything else in mlcflow imports MLIR from this module, so the process holds one MLIR and
the quirks of the bindings are hidden in one place.
"""

from __future__ import annotations

from pathlib import Path

import torch_mlir.dialects.torch as torch_dialect  # registers the torch-mlir passes
from torch_mlir import ir, passmanager, rewrite
from torch_mlir._mlir_libs import _stablehlo
from torch_mlir.dialects import (
    affine,
    arith,
    bufferization,
    builtin,
    cf,
    ext,
    func,
    gpu,
    linalg,
    llvm,
    math,
    memref,
    nvgpu,
    nvvm,
    scf,
    tensor,
    transform,
    vector,
    x86,
)
from torch_mlir.dialects.transform import bufferization as bufferization_transform
from torch_mlir.dialects.transform import gpu as gpu_transform
from torch_mlir.dialects.transform import interpreter, structured
from torch_mlir.dialects.transform import loop as loop_transform
from torch_mlir.dialects.transform import tensor as tensor_transform
from torch_mlir.dialects.transform import tune as tune_transform
from torch_mlir.dialects.transform import vector as vector_transform
from torch_mlir.dialects.transform import x86 as x86_transform
from torch_mlir.execution_engine import ExecutionEngine

__all__ = [
    "ExecutionEngine",
    "affine",
    "arith",
    "asm",
    "bufferization",
    "bufferization_transform",
    "builtin",
    "cf",
    "clone",
    "context",
    "ext",
    "func",
    "gpu",
    "gpu_transform",
    "interpreter",
    "ir",
    "linalg",
    "llvm",
    "loop_transform",
    "math",
    "memref",
    "nvgpu",
    "nvvm",
    "parse",
    "parse_file",
    "passmanager",
    "rewrite",
    "scf",
    "structured",
    "tensor",
    "tensor_transform",
    "torch_dialect",
    "transform",
    "tune_transform",
    "vector",
    "vector_transform",
    "walk",
    "x86",
    "x86_transform",
]

_stablehlo.register_stablehlo_passes()


def context() -> ir.Context:
    """A fresh context that knows every upstream dialect, torch-mlir's and ours."""
    from mlcflow.dialects import load_dialects

    ctx = ir.Context()
    torch_dialect.register_dialect(ctx)
    _stablehlo.register_dialect(ctx)
    load_dialects(ctx)
    return ctx


def parse(text: str | bytes, ctx: ir.Context | None = None) -> ir.Module:
    """Parse MLIR text or bytecode into a verified module.

    Raises ``ir.MLIRError`` with its diagnostics when the text is not a valid module.
    """
    ctx = ctx or context()
    with ctx, ir.Location.unknown():
        return ir.Module.parse(text)


def parse_file(path: Path, ctx: ir.Context | None = None) -> ir.Module:
    """Like :func:`parse`; locations name the file. Raises ``OSError`` when it is not readable."""
    with path.open("rb"):  # for Python's error; MLIR's own does not say what is wrong
        pass
    ctx = ctx or context()
    with ctx, ir.Location.unknown():
        return ir.Module.parseFile(str(path))


def clone(module: ir.Module) -> ir.Module:
    """A deep copy in the same context."""
    with module.context, ir.Location.unknown():
        copy = ir.Module.create()
        for op in module.body.operations:
            copy.body.append(op.operation.clone())
        for name in module.operation.attributes:
            copy.operation.attributes[name] = module.operation.attributes[name]
        return copy


def asm(module: ir.Module | ir.Operation, *, locations: bool = False) -> str:
    """The module as text. Large constants are elided only where they are resources."""
    operation = module.operation
    return str(operation.get_asm(enable_debug_info=locations))


def walk(root: ir.Operation | ir.OpView) -> list[ir.OpView]:
    """Every operation nested below ``root``, outer before inner, ``root`` not included.

    A list made in advance, so that the caller may erase what it comes to.
    """
    found = []
    for region in root.operation.regions:
        for block in region.blocks:
            for op in block.operations:
                found.append(op)
                found += walk(op)
    return found
