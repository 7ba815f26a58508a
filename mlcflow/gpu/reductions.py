"""Reductions that the threads of a block share."""

from __future__ import annotations

from dataclasses import dataclass

from mlcflow.gpu.loops import constant_index
from mlcflow.mlir import arith, gpu, ir, memref, scf
from mlcflow.schedule.labels import trip_count

_SMALLEST, _LARGEST = "smallest", "largest"
_KINDS: dict[str, tuple[str, float | str]] = {
    "arith.addf": ("ADD", 0.0),
    "arith.addi": ("ADD", 0),
    "arith.mulf": ("MUL", 1.0),
    "arith.muli": ("MUL", 1),
    "arith.maximumf": ("MAXIMUMF", _SMALLEST),
    "arith.minimumf": ("MINIMUMF", _LARGEST),
    "arith.maxnumf": ("MAXNUMF", _SMALLEST),
    "arith.minnumf": ("MINNUMF", _LARGEST),
    "arith.maxsi": ("MAXSI", _SMALLEST),
    "arith.minsi": ("MINSI", _LARGEST),
}
"""How ``gpu.all_reduce`` calls each combination, and what changes nothing in it."""

TYPES = ("f32", "f64", "i32", "i64")
"""Element types that threads exchange."""


@dataclass(frozen=True)
class Reduction:
    """``out[...] = combine(out[...], x)`` for each iteration of ``loop``."""

    loop: scf.ForOp
    load: memref.LoadOp
    store: memref.StoreOp
    combine: ir.OpView


def find_reduction(op: ir.OpView) -> Reduction | None:
    """The reduction that a loop is; ``None`` if it is something else."""
    if not isinstance(op, scf.ForOp) or len(op.results) or trip_count(op) < 2:
        return None
    *body, store, _ = [*op.body.operations] if len(op.body.operations) > 3 else [None, None, None]
    if not isinstance(store, memref.StoreOp) or isinstance(store.value.owner, ir.Block):
        return None
    combine = store.value.owner.opview
    loads = [o for o in body if isinstance(o, memref.LoadOp) and o.memref == store.memref]
    if len(loads) != 1 or list(loads[0].indices) != list(store.indices):
        return None
    if combine.operation.name not in _KINDS or str(store.value.type) not in TYPES:
        return None
    uses = [use.owner for use in loads[0].result.uses]
    alone = len(uses) == 1 and uses[0] == combine.operation
    pure = all(not o.operation.regions and o.operation.results for o in body if o is not None)
    outside = op.induction_variable not in list(store.indices) and not any(
        index.owner in [o.operation for o in body if o is not None] for index in store.indices
    )
    if not (alone and pure and outside and combine in body):
        return None
    return Reduction(op, loads[0], store, combine)


def share_reduction(found: Reduction, number: ir.Value, threads: int) -> None:
    """Let each thread combine every ``threads``-th element, and then all threads their results.

    ``number`` is that of the thread, of which the first adds what the destination held.
    """
    loop, kind = found.loop, found.store.value.type
    with ir.InsertionPoint(loop), loop.location:
        first = arith.addi(loop.lowerBound, arith.muli(number, loop.step))
        step = arith.muli(loop.step, constant_index(threads))
        own = scf.ForOp(first, loop.upperBound, step, [_neutral(found.combine, kind)])
    body = list(loop.body.operations)[:-1]
    loop.induction_variable.replace_all_uses_with(own.induction_variable)
    found.load.result.replace_all_uses_with(own.inner_iter_args[0])
    with ir.InsertionPoint(own.body):
        end = scf.YieldOp([found.store.value])
    for op in body:
        if op not in (found.load, found.store):
            op.operation.move_before(end.operation)
    with ir.InsertionPoint(loop), loop.location:
        name = _KINDS[found.combine.operation.name][0]
        total = _all_reduce(own.results[0], name)
        is_first = arith.cmpi(arith.CmpIPredicate.eq, number, constant_index(0))
        guard = scf.IfOp(is_first)
        with ir.InsertionPoint(guard.then_block):
            places = list(found.store.indices)
            old = memref.load(found.store.memref, places)
            again = _combined(found.combine, old, total)
            memref.store(again, found.store.memref, places)
            scf.YieldOp([])
    loop.operation.erase()


def _all_reduce(value: ir.Value, name: str) -> ir.Value:
    kind = gpu.AllReduceOperation[name]
    attribute = ir.Attribute.parse(f"#gpu<all_reduce_op {kind}>")
    return gpu.AllReduceOp(value, op=attribute, uniform=True).result


def _combined(combine: ir.OpView, old: ir.Value, new: ir.Value) -> ir.Value:
    copy = ir.Operation.create(
        combine.operation.name, results=[old.type], operands=[old, new],
        attributes={name: combine.attributes[name] for name in combine.operation.attributes},
    )  # fmt: skip
    return copy.results[0]


def _neutral(combine: ir.OpView, kind: ir.Type) -> ir.Value:
    value = _KINDS[combine.operation.name][1]
    if isinstance(value, str):
        if isinstance(kind, ir.IntegerType):
            most = 1 << (kind.width - 1)
            value = -most if value == _SMALLEST else most - 1
        else:
            value = float("-inf" if value == _SMALLEST else "inf")
    return arith.constant(kind, value)
