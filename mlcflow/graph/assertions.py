"""Assertions that a model carries, and what becomes of them at run time."""

from __future__ import annotations

from mlcflow.mlir import arith, cf, func, ir, scf, walk
from mlcflow.runtime.machine_code import ASSERTION_FAILED


def drop_needless_assertions(module: ir.Module) -> None:
    """Erase the assertion that torch-mlir puts into ``1 / x``.

    Division by a floating-point zero is infinity, in PyTorch as in IEEE 754, but torch-mlir
    asserts that ``x`` is not zero, which would end the process and keeps the operation from
    being vectorized.
    """
    for op in walk(module.operation):
        if isinstance(op, cf.AssertOp) and "tensor with zero element" in op.msg.value:
            op.operation.erase()


def report_assertions(module: ir.Module) -> None:
    """Turn the remaining assertions into a call that reports the number of the failed one.

    Upstream lowers an assertion to ``abort``, which takes the user's process along. Runs on
    loops, when payloads of linalg operations have become ordinary code.
    """
    assertions = [op for op in walk(module.operation) if isinstance(op, cf.AssertOp)]
    if not assertions:
        return
    i64, i1 = ir.IntegerType.get_signless(64), ir.IntegerType.get_signless(1)
    with ir.InsertionPoint.at_block_begin(module.body):
        func.FuncOp(ASSERTION_FAILED, ([i64], []), visibility="private")
    messages = []
    for number, op in enumerate(assertions):
        messages.append(op.msg)
        with ir.InsertionPoint(op), op.location:
            failed = arith.xori(op.arg, arith.constant(i1, 1))
            branch = scf.IfOp(failed)
            with ir.InsertionPoint(branch.then_block):
                func.CallOp([], ASSERTION_FAILED, [arith.constant(i64, number)])
                scf.YieldOp([])
        op.operation.erase()
    module.operation.attributes["mlcflow.assertions"] = ir.ArrayAttr.get(messages)
