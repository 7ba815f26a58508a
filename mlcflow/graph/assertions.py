"""Assertions that a model carries, and what becomes of them at run time."""

from __future__ import annotations

from mlcflow.mlir import arith, cf, func, ir, walk
from mlcflow.runtime.machine_code import ASSERTION_FAILED

GOES_ON, MESSAGES = "mlcflow.goes_on", "mlcflow.assertions"


def drop_needless_assertions(module: ir.Module) -> None:
    """Erase the assertion that torch-mlir puts into ``1 / x``.

    Division by a floating-point zero is infinity, in PyTorch as in IEEE 754, but torch-mlir
    asserts that ``x`` is not zero, which would end the process and keeps the operation from
    being vectorized.
    """
    for op in walk(module.operation):
        if isinstance(op, cf.AssertOp) and "tensor with zero element" in op.msg.value:
            op.operation.erase()


def check(condition: ir.Value, message: str) -> None:
    """Assert at the insertion point what the code behind does not rely on for its safety.

    The function goes on when it fails, so that those behind it find its result in memory.
    """
    assertion = cf.AssertOp(condition, message)
    assertion.operation.attributes[GOES_ON] = ir.UnitAttr.get()


def report_assertions(module: ir.Module) -> None:
    """Turn the remaining assertions into a call that reports the number of the failed one.

    Upstream lowers an assertion to ``abort``, which takes the user's process along. Here the
    function goes on after an assertion of :func:`check`, and returns at once after any other,
    since what it guards would read memory that is not there. What it allocated until then is
    lost, and its results hold anything: the runtime does not look at them. Runs when loops
    have become branches.
    """
    assertions = [op for op in walk(module.operation) if isinstance(op, cf.AssertOp)]
    if not assertions:
        return
    messages = []
    if MESSAGES in module.operation.attributes:  # of kernels on a GPU
        messages = list(ir.ArrayAttr(module.operation.attributes[MESSAGES]))
    if ASSERTION_FAILED not in ir.SymbolTable(module.operation):
        i64 = ir.IntegerType.get_signless(64)
        with ir.InsertionPoint.at_block_begin(module.body):
            func.FuncOp(ASSERTION_FAILED, ([i64], []), visibility="private")
    for op in assertions:
        with op.location:
            _branch(op, len(messages))
        messages.append(op.msg)
        op.operation.erase()
    module.operation.attributes[MESSAGES] = ir.ArrayAttr.get(messages)


def _branch(assertion: cf.AssertOp, number: int) -> None:
    """Go on behind the assertion if it holds, else report ``number`` and leave the function."""
    block = assertion.operation.block
    failed, behind = block.create_after(), block.create_after()
    operations = list(block.operations)
    for op in operations[operations.index(assertion) + 1 :]:
        behind.append(op)
    with ir.InsertionPoint(block):
        cf.cond_br(assertion.arg, [], [], behind, failed)
    with ir.InsertionPoint(failed):
        i64 = ir.IntegerType.get_signless(64)
        func.CallOp([], ASSERTION_FAILED, [arith.constant(i64, number)])
        owner = block.owner
        if isinstance(owner, func.FuncOp) and GOES_ON not in assertion.operation.attributes:
            func.ReturnOp([_anything(kind) for kind in owner.type.results])
        else:  # nor can a parallel region be left half way
            cf.br([], behind)


def _anything(kind: ir.Type) -> ir.Value:
    poison = ir.Attribute.parse("#ub.poison")
    return ir.Operation.create("ub.poison", results=[kind], attributes={"value": poison}).result
