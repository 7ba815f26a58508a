"""Calls in the place of operations on barriers, and of copies of boxes: see ``cpu_barriers``."""

from __future__ import annotations

from collections.abc import Sequence

from mlcflow.mlir import arith, func, ir, llvm, nvvm

INIT, INVAL, FENCE = "test_mbarrier_init", "test_mbarrier_inval", "test_mbarrier_fence"
ARRIVE, EXPECT = "test_mbarrier_arrive", "test_mbarrier_expect"
WAIT, TEST, COPY = "test_mbarrier_wait", "test_mbarrier_test", "test_bulk_copy"
ELECT = "test_elect"
ARGUMENTS = {
    INIT: (3, 0), INVAL: (1, 0), FENCE: (0, 0), ARRIVE: (4, 1), EXPECT: (2, 0),
    WAIT: (2, 0), TEST: (3, 1), COPY: (10, 0), ELECT: (0, 1),
}  # fmt: skip
"""How many words these functions take and give."""
TOGETHER = ("nvvm.mbarrier.", "nvvm.cp.async.bulk.tensor.")
"""How the names of operations begin, for which threads wait for each other."""


def _i64() -> ir.Type:
    return ir.IntegerType.get_signless(64)


def _word(value: ir.Value | int | None, default: int = 1) -> ir.Value:
    """64 bits of a number or a pointer."""
    if value is None or isinstance(value, int):
        return arith.constant(_i64(), default if value is None else value)
    if not isinstance(value.type, ir.IntegerType):
        return llvm.PtrToIntOp(_i64(), value).res
    width = ir.IntegerType(value.type).width
    extend = arith.extsi if width == 32 else arith.extui
    return value if width == 64 else extend(_i64(), value)


def declare() -> None:
    """Declarations of the functions, at the insertion point."""
    for name, (takes, gives) in ARGUMENTS.items():
        func.FuncOp(name, ([_i64()] * takes, [_i64()] * gives), visibility="private")


def _call(name: str, *words: ir.Value | int | None) -> Sequence[ir.Value]:
    return func.CallOp([_i64()] * ARGUMENTS[name][1], name, [*map(_word, words)]).results


def replace(op: ir.OpView) -> bool:
    """Put calls of these functions in the place of ``op``; whether it is one of ours."""
    with ir.InsertionPoint(op):
        if isinstance(op, nvvm.MBarrierInitOp):
            _call(INIT, op.addr, op.count, op.predicate)
        elif isinstance(op, nvvm.MBarrierInvalOp):
            _call(INVAL, op.addr)
        elif isinstance(op, nvvm.FenceMbarrierInitOp):
            _call(FENCE)
        elif isinstance(op, nvvm.MBarrierArriveOp):
            _answer(op, _call(ARRIVE, op.addr, op.count, 0, 1)[0])
        elif isinstance(op, nvvm.MBarrierArriveExpectTxOp):
            _answer(op, _call(ARRIVE, op.addr, 1, op.txcount, op.predicate)[0])
        elif isinstance(op, nvvm.MBarrierExpectTxOp):
            _call(EXPECT, op.addr, op.txcount)
        elif isinstance(op, nvvm.MBarrierTryWaitParityOp):
            _call(WAIT, op.addr, op.phase)
        elif isinstance(op, nvvm.MBarrierTestWaitOp | nvvm.MBarrierTryWaitOp):
            parity = int(op.stateOrPhase.type == ir.IntegerType.get_signless(32))
            answer = _call(TEST, op.addr, op.stateOrPhase, parity)[0]
            _answer(op, arith.trunci(ir.IntegerType.get_signless(1), answer))
        elif isinstance(op, nvvm.CpAsyncBulkTensorGlobalToSharedClusterOp):
            _replace_copy(op)
        elif isinstance(op, nvvm.ElectSyncOp):
            _answer(op, arith.trunci(ir.IntegerType.get_signless(1), _call(ELECT)[0]))
        elif isinstance(op, nvvm.PrefetchOp | nvvm.SetMaxRegisterOp):
            pass  # makes a kernel faster, or nothing
        else:
            return False
    op.operation.erase()
    return True


def _answer(op: ir.OpView, value: ir.Value) -> None:
    for result in op.operation.results:
        result.replace_all_uses_with(value)


def _replace_copy(op: nvvm.CpAsyncBulkTensorGlobalToSharedClusterOp) -> None:
    if op.multicastMask is not None or len(op.im2colOffsets) or "tile" not in _mode(op):
        raise NotImplementedError(f"bulk copies are emulated of boxes, for one block: {op}")
    where = list(op.coordinates)
    rest = [0] * (5 - len(where))
    _call(COPY, op.dstMem, op.tmaDescriptor, op.mbar, op.predicate, len(where), *where, *rest)


def _mode(op: nvvm.CpAsyncBulkTensorGlobalToSharedClusterOp) -> str:
    return str(op.attributes["mode"]) if "mode" in op.attributes else "tile"
