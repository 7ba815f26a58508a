"""Assertions in kernels: a thread notes which one failed, and the host looks."""

from __future__ import annotations

from mlcflow.gpu.arguments import pass_from_callers
from mlcflow.graph.assertions import GOES_ON, MESSAGES
from mlcflow.mlir import arith, cf, func, gpu, ir, memref, scf, walk


def report_from_kernels(module: ir.Module) -> None:
    """Let each assertion in a launch write its number + 1 into ``mlcflow.status`` if it fails.

    What it guards is then left out, unless it is safe (``mlcflow.goes_on``): a thread that
    reads memory which is not there would end all work on the device.
    """
    messages = []
    if MESSAGES in module.operation.attributes:
        messages = list(ir.ArrayAttr(module.operation.attributes[MESSAGES]))
    before = len(messages)
    for function in list(module.body.operations):
        found = _assertions(function) if isinstance(function, func.FuncOp) else []
        if not found:
            continue
        kind = ir.MemRefType.get([1], ir.IntegerType.get_signless(32))
        status = pass_from_callers(function, kind, "status", module)
        for op in found:
            with op.location:
                _note(op, status, len(messages))
            messages.append(op.msg)
            op.operation.erase()
    if len(messages) > before:
        module.operation.attributes[MESSAGES] = ir.ArrayAttr.get(messages)


def _assertions(function: func.FuncOp) -> list[cf.AssertOp]:
    launches = [op for op in walk(function) if isinstance(op, gpu.LaunchOp)]
    return [op for launch in launches for op in walk(launch) if isinstance(op, cf.AssertOp)]


def _note(op: cf.AssertOp, status: ir.Value, number: int) -> None:
    i1, i32 = ir.IntegerType.get_signless(1), ir.IntegerType.get_signless(32)
    with ir.InsertionPoint(op):
        guard = scf.IfOp(arith.xori(op.arg, arith.constant(i1, 1)))
        with ir.InsertionPoint(guard.then_block):
            zero = arith.constant(ir.IndexType.get(), 0)
            memref.store(arith.constant(i32, number + 1), status, [zero])
            scf.YieldOp([])
    if GOES_ON not in op.operation.attributes:
        _leave_out_rest(op)


def _leave_out_rest(op: cf.AssertOp) -> None:
    """Do what follows in the block of ``op`` only if the assertion holds."""
    operations = list(op.operation.block.operations)
    rest = operations[operations.index(op) + 1 : -1]
    if not rest or list(operations[-1].operands):
        return
    with ir.InsertionPoint(rest[0]):
        guard = scf.IfOp(op.arg)
        with ir.InsertionPoint(guard.then_block):
            end = scf.YieldOp([])
    for each in rest:
        each.operation.move_before(end.operation)
