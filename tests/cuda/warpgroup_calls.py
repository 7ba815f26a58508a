"""Calls in the place of the operations of a warpgroup: see ``cpu_warpgroups``."""

from __future__ import annotations

import re

from cpu_warpgroups import KINDS
from cpu_warps import _address

from mlcflow.mlir import arith, func, ir, llvm, memref, nvvm, vector, walk

MMA, FENCE, COMMIT = "test_wgmma", "test_wgmma_fence", "test_wgmma_commit"
WAIT, TIE, VALUE = "test_wgmma_wait", "test_wgmma_tie", "test_wgmma_value"
PROXY, STORED = "test_proxy_fence", "test_stored"
ARGUMENTS = {
    MMA: (8, 0), FENCE: (0, 0), COMMIT: (0, 0), WAIT: (1, 0), TIE: (3, 0), VALUE: (1, 1),
    PROXY: (0, 0), STORED: (2, 0),
}  # fmt: skip
"""How many words these functions take and give."""
TOGETHER = ("nvvm.wgmma.mma_async",)
_FENCES = re.compile(r"\s*wgmma\.fence\.sync\.aligned;")
_WAITS = re.compile(r"\s*wgmma\.wait_group\.sync\.aligned (\d+);")
_LAYOUTS = {"A": "row", "B": "col"}  # of K-major factors


def _i64() -> ir.Type:
    return ir.IntegerType.get_signless(64)


def _word(number: int) -> ir.Value:
    return arith.constant(_i64(), number)


def declare() -> None:
    """Declarations of the functions, at the insertion point."""
    for name, (takes, gives) in ARGUMENTS.items():
        func.FuncOp(name, ([_i64()] * takes, [_i64()] * gives), visibility="private")


def replace(op: ir.OpView) -> bool:
    """Put calls of these functions in the place of ``op``; whether it is one of ours."""
    with ir.InsertionPoint(op):
        if isinstance(op, nvvm.WgmmaMmaAsyncOp):
            _replace_mma(op)
        elif isinstance(op, nvvm.WgmmaFenceAlignedOp):
            func.CallOp([], FENCE, [])
        elif isinstance(op, nvvm.WgmmaGroupSyncAlignedOp):
            func.CallOp([], COMMIT, [])
        elif isinstance(op, nvvm.WgmmaWaitGroupSyncOp):
            func.CallOp([], WAIT, [_word(ir.IntegerAttr(op.attributes["group"]).value)])
        elif isinstance(op, nvvm.FenceProxyOp):
            if "async" in str(op.attributes["kind"]):
                func.CallOp([], PROXY, [])
        elif isinstance(op, llvm.InlineAsmOp):
            return _replace_tie(op)
        elif isinstance(op, llvm.ExtractValueOp):
            return _replace_part(op)
        else:
            return False
    op.operation.erase()
    return True


def _name(attribute: ir.Attribute) -> str:
    """``f16`` of ``#nvvm.wgmma_type<f16>``."""
    return str(attribute).rstrip(">").rsplit("<", 1)[1].split("<")[-1]


def _replace_mma(op: nvvm.WgmmaMmaAsyncOp) -> None:
    text = {name: str(op.attributes[name]) for name in ("shape", "scaleD", "scaleA", "scaleB")}
    if "neg" in text["scaleA"] + text["scaleB"] or _name(op.attributes["typeD"]) != "f32":
        raise NotImplementedError(
            f"wgmma is emulated with sums in f32, of factors as they are: {op}"
        )
    kind = KINDS.index(_name(op.attributes["typeA"]))
    n = int(re.search(r"n = (\d+)", text["shape"])[1])
    turned = [int(_name(op.attributes[f"layout{x}"]) != _LAYOUTS[x]) for x in "AB"]
    flags = [_word(value) for value in (kind, n, *turned, int("one" in text["scaleD"]))]
    place = _place(
        op.results_.type if hasattr(op, "results_") else op.operation.results[0].type, op
    )
    llvm.StoreOp(op.inouts, place)
    func.CallOp([], MMA, [_as_word(place), op.descriptorA, op.descriptorB, *flags])
    result = op.operation.results[0]
    result.replace_all_uses_with(llvm.LoadOp(result.type, place).result)


def _replace_tie(op: llvm.InlineAsmOp) -> bool:
    """A fence, or a wait, whose operands are the sums, which are its results."""
    text = ir.StringAttr(op.attributes["asm_string"]).value
    found, is_fence = _WAITS.match(text), _FENCES.match(text)
    operands = list(op.operation.operands)
    if not found and not is_fence:
        return False
    if is_fence:
        func.CallOp([], FENCE, [])
        op.operation.results[0].replace_all_uses_with(_whole(op))
    elif not operands:
        func.CallOp([], WAIT, [_word(int(found[1]))])
    else:
        kind = op.operation.results[0].type
        place = _place(kind, op)
        llvm.StoreOp(_whole(op), place)
        func.CallOp([], TIE, [_as_word(place), _word(len(operands)), _word(int(found[1]))])
        op.operation.results[0].replace_all_uses_with(llvm.LoadOp(kind, place).result)
    op.operation.erase()
    return True


def _whole(op: llvm.InlineAsmOp) -> ir.Value:
    """The operands as the one value that the result is."""
    operands, kind = list(op.operation.operands), op.operation.results[0].type
    if len(operands) == 1 and kind == operands[0].type:
        return operands[0]
    whole = llvm.UndefOp(kind).res
    for number, value in enumerate(operands):
        whole = llvm.InsertValueOp(whole, value, [number]).res
    return whole


def _replace_part(op: llvm.ExtractValueOp) -> bool:
    """What is taken out of a struct is a sum if it was waited for."""
    result = op.operation.results[0]
    waits = [use.owner for use in result.uses]
    if not isinstance(result.type, ir.F32Type) or all(
        isinstance(user.opview, llvm.InlineAsmOp | llvm.InsertValueOp) for user in waits
    ):
        return False
    i32 = ir.IntegerType.get_signless(32)
    with ir.InsertionPoint.after(op.operation):
        bits = arith.bitcast(i32, result)
        call = func.CallOp([_i64()], VALUE, [arith.extui(_i64(), bits)])
        value = arith.bitcast(result.type, arith.trunci(i32, call.results[0]))
    result.replace_all_uses_except(value, bits.owner.operation)
    return True


def _place(kind: ir.Type, op: ir.OpView) -> ir.Value:
    """Memory for one value, made at the start of the kernel: a stack in a loop would grow."""
    function = op.operation
    while not isinstance(function.opview, func.FuncOp):
        function = function.parent
    with ir.InsertionPoint.at_block_begin(function.regions[0].blocks[0]):
        one = arith.constant(ir.IntegerType.get_signless(64), 1)
        return llvm.AllocaOp(ir.Type.parse("!llvm.ptr"), one, kind, alignment=16).res


def _as_word(pointer: ir.Value) -> ir.Value:
    return llvm.PtrToIntOp(_i64(), pointer).res


def watch(function: ir.OpView) -> None:
    """Let the stores of threads be noted: the generic proxy made them."""
    for op in walk(function):
        if isinstance(op, memref.StoreOp):
            target, indices, kind, count = op.memref, op.indices, op.value.type, 1
        elif isinstance(op, vector.StoreOp):
            kind = ir.VectorType(op.valueToStore.type)
            target, indices, count = op.base, op.indices, kind.shape[-1]
            kind = kind.element_type
        else:
            continue
        with ir.InsertionPoint.after(op.operation):
            size = _word(count * max(8, getattr(kind, "width", 64)) // 8)
            func.CallOp([], STORED, [_address(target, list(indices)), size])
