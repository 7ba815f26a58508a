# mlcflow_powers.py
"""Powers of two become exponentials, which take less time."""

from mlcflow import Pass, Pipeline, Schedule, Stage, Target
from mlcflow.dialects.schedule.dialect import Erase, attach
from mlcflow.graph.kernel import Kernel
from mlcflow.mlir import arith, ext, ir, math, transform, walk
from mlcflow.pipelines import reference
from mlcflow.schedule.interpret import Handle, apply


class Powers(ext.Dialect, name="powers"):
    """The name is that of the entry point."""


class ToExp2(Powers.Operation, name="to_exp2"):
    """``powers.to_exp2``: 2 ** x becomes exp2(x) in every operation of ``target``."""

    target: ext.Operand[transform.AnyOpType]


def load() -> None:
    """Load the dialect into the current context."""
    Powers.load()
    attach(ToExp2, _to_exp2)


def _to_exp2(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for power in (found for root in payload for found in powers_of_two(root)):
        with ir.InsertionPoint(power), power.location:
            exponential = math.exp2(power.rhs)
        power.result.replace_all_uses_with(exponential)
        erase(power.operation)


def powers_of_two(root: ir.OpView) -> list[ir.OpView]:
    """The operations that compute 2 ** x."""
    found = [op for op in walk(root) if isinstance(op, math.PowFOp)]
    return [op for op in found if _constant(op.lhs) == 2]


def _constant(value: ir.Value) -> float | None:
    op = getattr(value.owner, "opview", None)  # an argument belongs to a block
    return float(op.literal_value) if isinstance(op, arith.ConstantOp) else None


def to_exp2(root: Handle) -> None:
    """Emit the operation."""
    ir.Operation.create("powers.to_exp2", operands=[root])


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """Elementwise f32 kernels with a power of two."""
    lanes = target.lanes(32)
    if kernel.kind != "elementwise" or kernel.element_types != {"f32"}:
        return None
    if not powers_of_two(kernel.function) or kernel.loops[-1] % lanes:
        return None
    schedule = Schedule(kernel)
    schedule.apply("powers_to_exp2", {}, to_exp2)
    schedule.tile_and_fuse(schedule.final, [1] * (len(kernel.loops) - 1) + [lanes])
    schedule.drop_unit_loops()
    schedule.vectorize()
    return schedule


def pipeline(target: Target, *, opt_level: int = 1) -> Pipeline:
    """Loops as in the reference, without powers of two."""

    def powers_to_exp2(module: ir.Module) -> None:
        apply(module, to_exp2)

    stages = (
        Stage("simplify", *reference.simplify(), powers_to_exp2, Pass("canonicalize")),
        Stage("bufferize", *reference.bufferize()),
        Stage("loops", *reference.loops()),
        Stage("llvm", *reference.to_llvm(target)),
    )
    return Pipeline("powers", stages, opt_level=opt_level)
