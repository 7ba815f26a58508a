"""Conversions between floating-point types that processors lack."""

from __future__ import annotations

from mlcflow.mlir import arith, ir, walk


def narrow_through_f32(module: ir.Module) -> None:
    """Convert f64 to f16 and bf16 by way of f32, as PyTorch does.

    LLVM calls a function of the compiler's runtime library for the direct way, which rounds
    once instead of twice; not every system has that library.
    """
    f64, f32 = ir.F64Type.get(module.context), ir.F32Type.get(module.context)
    for op in walk(module.operation):
        if isinstance(op, arith.TruncFOp) and op.in_.type == f64 and op.out.type != f32:
            with ir.InsertionPoint(op), op.location:
                op.operation.operands[0] = arith.truncf(f32, op.in_)
