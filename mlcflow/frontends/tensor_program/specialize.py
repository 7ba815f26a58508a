"""Names for contractions and convolutions: ``linalg.matmul`` instead of a generic."""

from __future__ import annotations

from mlcflow.errors import ScheduleError
from mlcflow.mlir import ir, linalg, structured, transform, walk
from mlcflow.schedule.interpret import Handle, apply

_MARK = "mlcflow.specialize"


def specialize(module: ir.Module) -> None:
    """Replace each generic that is a contraction or convolution by the named operation.

    Those that upstream has no name for, such as a matrix-vector product, stay. Elementwise
    operations stay generic, which is what fuses. Upstream: ``transform.structured.specialize``.
    """
    for op in walk(module.operation):
        named = op.operation.name == "linalg.generic" and (
            linalg.isa_contraction_op(op.operation) or linalg.isa_convolution_op(op.operation)
        )
        if named:
            _specialize(module, op.operation)


def _specialize(module: ir.Module, op: ir.Operation) -> None:
    op.attributes[_MARK] = ir.UnitAttr.get()

    def build(root: Handle) -> None:
        marked = ir.DictAttr.get({_MARK: ir.UnitAttr.get()})
        found = structured.MatchOp(transform.AnyOpType.get(), root, op_attrs=marked).result
        structured.SpecializeOp(transform.AnyOpType.get(), found)

    try:
        apply(module, build)
    except (ir.MLIRError, ScheduleError):  # no name upstream; the operation is as it was
        del op.attributes[_MARK]
