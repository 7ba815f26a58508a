"""The dialect itself, and what its operations have in common."""

from __future__ import annotations

from collections.abc import Callable

from mlcflow.mlir import ext, ir, transform


class ScheduleDialect(ext.Dialect, name="schedule"):  # type: ignore[call-arg]
    """Transform operations on schedules of linalg operations."""


Erase = Callable[[ir.Operation], None]
Apply = Callable[[ir.OpView, list[ir.OpView], Erase], None]


def attach(operation: type, apply: Apply) -> None:
    """Make ``operation`` a transform operation that applies ``apply(operation, payload, erase)``.

    Its only operand is the handle of the payload, which it changes in place and does not
    consume. What it erases goes through ``erase``, or handles would keep pointing there. An
    exception in ``apply`` would end the process in C++; it becomes a definite failure.
    """

    class Transform(transform.TransformOpInterface):
        @staticmethod
        def apply(op: ir.OpView, rewriter: object, results: object, state: object) -> object:
            payload = [p.opview for p in state.get_payload_ops(op.operands[0])]  # type: ignore[attr-defined]
            try:
                with op.context, ir.Location.unknown():
                    apply(op, payload, rewriter.erase_op)  # type: ignore[attr-defined]
            except Exception as error:  # C++ would end the process
                op.location.emit_error(f"'{op.operation.name}': {type(error).__name__}: {error}")
                return transform.DiagnosedSilenceableFailure.DefiniteFailure
            return transform.DiagnosedSilenceableFailure.Success

        @staticmethod
        def allow_repeated_handle_operands(op: ir.OpView) -> bool:
            return False

    class Effects(ir.MemoryEffectsOpInterface):
        @staticmethod
        def get_effects(op: ir.OpView, effects: object) -> None:
            transform.only_reads_handle(op.op_operands, effects)
            transform.modifies_payload(effects)

    Transform.attach(operation.OPERATION_NAME)  # type: ignore[attr-defined]
    Effects.attach(operation.OPERATION_NAME)  # type: ignore[attr-defined]
