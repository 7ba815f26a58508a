# mlcflow_reciprocal.py
"""Divisions by a constant become multiplications, which take less time."""

from mlcflow import Pass, Pipeline, Schedule, Stage, Target
from mlcflow.dialects.schedule.dialect import Erase, attach
from mlcflow.graph.kernel import Kernel
from mlcflow.mlir import arith, ext, ir, transform, walk
from mlcflow.pipelines import reference
from mlcflow.schedule.interpret import Handle, apply


class Reciprocal(ext.Dialect, name="reciprocal"):
    """The name is that of the entry point."""


class Multiply(Reciprocal.Operation, name="multiply"):
    """``reciprocal.multiply``: x / 3 becomes x * (1 / 3) in every operation of ``target``."""

    target: ext.Operand[transform.AnyOpType]


def load() -> None:
    """Load the dialect into the current context."""
    Reciprocal.load()
    attach(Multiply, _multiply)


def _multiply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for division in (found for root in payload for found in divisions(root)):
        with ir.InsertionPoint(division), division.location:
            one = arith.constant(division.result.type, 1.0)
            product = arith.mulf(division.lhs, arith.divf(one, division.rhs))
        division.result.replace_all_uses_with(product)
        erase(division.operation)


def divisions(root: ir.OpView) -> list[ir.OpView]:
    """The divisions of a variable by a number other than zero."""
    found = [op for op in walk(root) if isinstance(op, arith.DivFOp)]
    return [op for op in found if _constant(op.rhs) and not _constant(op.lhs)]


def _constant(value: ir.Value) -> float:
    op = getattr(value.owner, "opview", None)  # an argument belongs to a block
    return float(op.literal_value) if isinstance(op, arith.ConstantOp) else 0.0


def multiply(root: Handle) -> None:
    """Emit the operation."""
    ir.Operation.create("reciprocal.multiply", operands=[root])


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """Elementwise f32 kernels that divide by a constant."""
    lanes = target.lanes(32)
    if kernel.kind != "elementwise" or kernel.element_types != {"f32"}:
        return None
    if not divisions(kernel.function) or kernel.loops[-1] % lanes:
        return None
    schedule = Schedule(kernel)
    schedule.apply("multiply_by_reciprocals", {}, multiply)
    schedule.tile_and_fuse(schedule.final, [1] * (len(kernel.loops) - 1) + [lanes])
    schedule.drop_unit_loops()
    schedule.vectorize()
    return schedule


def pipeline(target: Target, *, opt_level: int = 1) -> Pipeline:
    """Loops as in the reference, without divisions."""

    def multiply_by_reciprocals(module: ir.Module) -> None:
        apply(module, multiply)

    stages = (
        Stage("simplify", *reference.simplify(), multiply_by_reciprocals, Pass("canonicalize")),
        Stage("bufferize", *reference.bufferize()),
        Stage("loops", *reference.loops()),
        Stage("llvm", *reference.to_llvm(target)),
    )
    return Pipeline("reciprocal", stages, opt_level=opt_level)
