"""Primitives that decide where data lies: caches, layout, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    captured,
    indexing_maps,
    inputs,
    is_fill,
    loop_kinds,
    owner,
    payload,
)
from mlcflow.mlir import func, ir, linalg, scf, structured, tensor, transform
from mlcflow.schedule.emit import annotate, clean, match_block, name_blocks
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import BLOCK, Loop, free, has_window, loop_names
from mlcflow.schedule.loops import full_sizes

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule


TRAPS = ("arith.divsi", "arith.divui", "arith.remsi", "arith.remui")
"""Integer divisions, which stop the process where they divide by the zeros of the padding."""

SUMS = ("arith.addf", "arith.addi")


def cache_read(
    schedule: Schedule,
    block: str,
    operand: int,
    loops: tuple[Loop | str | None, Loop | str | None],
    permutation: Sequence[int],
) -> str:
    """See :meth:`Schedule.cache_read`. ``loops``: that of the panels, and the one ahead."""
    op = schedule.block(block)
    around = [schedule.loop(loop) for loop in dict.fromkeys(loops) if loop is not None]
    if loops[0] is None and around:
        raise ScheduleError(f"cache_read: to copy ahead of {around[0]} needs panels")
    count = len(inputs(op))
    if not 0 <= operand < count or not isinstance(op.operands[operand].type, ir.ShapedType):
        raise ScheduleError(f"cache_read: '{block}' reads operands 0 to {count - 1}, got {operand}")
    rank = ir.ShapedType(op.operands[operand].type).rank
    if permutation:
        _check_permutation(op, block, list(permutation), around)
    if around:
        _check_panels(op.operands[operand], block, operand, around[0])
        _check_ahead(op.operands[operand], block, operand, around)
    name = free(f"{block}_read{operand}", "x", schedule.blocks())

    def build(root: Handle) -> None:
        i64 = ir.IntegerType.get_signless(64)
        attributes: dict[str, ir.Attribute] = {
            "operand_number": ir.IntegerAttr.get(i64, operand),
            "block_name": ir.StringAttr.get(name),
        }
        for key, loop in (("loop", around[0]), ("ahead", around[-1])) if around else ():
            attributes[f"{key}_name"] = ir.StringAttr.get(loop.name)
            attributes[f"{key}_of"] = ir.StringAttr.get(loop.of)
        if around:
            order = [ir.IntegerAttr.get(i64, number) for number in permutation or range(rank)]
            attributes["permutation"] = ir.ArrayAttr.get(order)
        ir.Operation.create(
            "schedule.cache_panels" if around else "schedule.cache_read",
            operands=[match_block(root, block)],
            attributes=attributes,
        )
        if around:
            name_blocks(root)
            clean(root)

    arguments = {"block": block, "operand": operand, "panels": around[0] if around else None}
    given: dict[str, object] = {"permutation": list(permutation)} if permutation else {}
    given |= {"ahead": around[1]} if len(around) > 1 else {}
    schedule.apply("cache_read", arguments | given, build)
    return name


def _check_permutation(op: ir.OpView, block: str, order: list[int], around: Sequence[Loop]) -> None:
    if not around or "indexing_maps" not in op.attributes:
        raise ScheduleError(
            f"cache_read: a permutation needs panels, and '{block}' to be an operation with "
            f"indexing maps of its own, got {op.operation.name}"
        )
    if sorted(order) != list(range(len(order))):
        raise ScheduleError(f"cache_read: {order} is no permutation of the dimensions")


def _check_panels(value: ir.Value, block: str, operand: int, loop: Loop) -> None:
    """Raise unless ``value`` is a slice that each iteration of ``loop`` places once."""
    slice_of = owner(value)
    is_around = loop.op is not None and is_inside(value, loop.op)
    if loop.op is None or not is_around or not isinstance(slice_of, tensor.ExtractSliceOp):
        raise ScheduleError(
            f"cache_read: expected {loop} to be a loop around '{block}' and operand {operand} "
            "a slice that moves with it; tile the block first"
        )
    if loop.extent < 1 or not ir.ShapedType(value.type).has_static_shape:
        raise ScheduleError(f"cache_read: the extents of {loop} and its slices must be known")
    if is_inside(slice_of.source, loop.op) or _moves(value, [loop.op], loop.op):
        raise ScheduleError(
            f"cache_read: a loop inside {loop} moves operand {operand} of '{block}'; "
            "give the innermost loop that moves it"
        )


def _check_ahead(value: ir.Value, block: str, operand: int, around: Sequence[Loop]) -> None:
    """Raise unless ``value`` moves with the loop of the panels alone of those inside the other."""
    panels, ahead = around[0], around[-1]
    assert panels.op is not None
    if ahead.op is None or (ahead != panels and not is_inside(panels.op.results[0], ahead.op)):
        raise ScheduleError(f"cache_read: expected {ahead} to be a loop around {panels}")
    if _moves(value, [panels.op], ahead.op):
        raise ScheduleError(
            f"cache_read: {ahead}, or a loop between it and {panels}, moves operand {operand} of "
            f"'{block}'; copy the panels ahead of a loop further inside"
        )


def is_inside(value: ir.Value, loop: scf.ForOp) -> bool:
    """Whether ``value`` is defined in the body of ``loop``."""
    block = value.owner if isinstance(value.owner, ir.Block) else value.owner.operation.block
    while block != loop.body:
        op = block.owner
        if op is None or isinstance(op.opview, func.FuncOp):
            return False
        block = op.operation.block
    return True


def _moves(value: ir.Value, known: Sequence[scf.ForOp], loop: scf.ForOp) -> bool:
    """Whether ``value``, defined inside ``loop``, depends on anything there but known counters."""
    if value in [each.induction_variable for each in known] or not is_inside(value, loop):
        return False
    producer = owner(value)
    if producer is None:
        return True
    return any(_moves(each, known, loop) for each in producer.operation.operands)


def cache_write(schedule: Schedule, block: str) -> str:
    """See :meth:`Schedule.cache_write`."""
    op = schedule.block(block)
    if len(op.results) != 1 or is_fill(op):
        raise ScheduleError(f"cache_write: '{block}' must compute one result")
    name = free(f"{block}_write", "x", schedule.blocks())

    def build(root: Handle) -> None:
        ir.Operation.create(
            "schedule.cache_write",
            operands=[match_block(root, block)],
            attributes={"block_name": ir.StringAttr.get(name)},
        )

    schedule.apply("cache_write", {"block": block}, build)
    return name


def pack(schedule: Schedule, block: str, sizes: Sequence[int]) -> None:
    """See :meth:`Schedule.pack`."""
    op = schedule.block(block)
    sizes = full_sizes(op, sizes)
    _check_pack(op, block, sizes)

    def build(root: Handle) -> None:
        packed = structured.PackOp(
            transform.OperationType.get("linalg.generic"),
            match_block(root, block),
            packed_sizes=[],
            static_packed_sizes=list(sizes),
        )
        annotate(packed.result, BLOCK, ir.StringAttr.get(block))
        packs = structured.MatchOp.match_op_names(root, ["linalg.pack"]).result
        structured.LowerPackOp(
            transform.OperationType.get("tensor.pad"),
            transform.OperationType.get("tensor.expand_shape"),
            transform.OperationType.get("linalg.transpose"),
            transform.CastOp(transform.OperationType.get("linalg.pack"), packs).result,
        )
        unpacks = structured.MatchOp.match_op_names(root, ["linalg.unpack"]).result
        structured.LowerUnPackOp(
            transform.OperationType.get("tensor.empty"),
            transform.OperationType.get("linalg.transpose"),
            transform.OperationType.get("tensor.collapse_shape"),
            transform.OperationType.get("tensor.extract_slice"),
            transform.OperationType.get("linalg.copy"),
            transform.CastOp(transform.OperationType.get("linalg.unpack"), unpacks).result,
        )
        clean(root)

    schedule.apply("pack", {"block": block, "sizes": list(sizes)}, build)


def _check_pack(op: ir.OpView, block: str, sizes: Sequence[int]) -> None:
    if not any(sizes):
        raise ScheduleError(f"pack: no size above 0 in {list(sizes)}")
    if has_window(op):
        raise ScheduleError(f"pack: loops of '{block}' move through a window: cannot be packed")
    for name, extent, size in zip(loop_names(op), loop_extents(op), sizes, strict=True):
        if size and (extent < 0 or extent % size):
            raise ScheduleError(
                f"pack: {block}.{name} has {extent} iterations, which {size} does not divide; "
                "pad it first"
            )


def pad(schedule: Schedule, block: str, multiples: Sequence[int]) -> None:
    """See :meth:`Schedule.pad`."""
    op = schedule.block(block)
    multiples = full_sizes(op, multiples)
    dims = [number for number, multiple in enumerate(multiples) if multiple > 1]
    if not dims:
        raise ScheduleError(f"pad: no multiple above 1 in {list(multiples)}")
    problem = _why_not(op, dims)
    if problem:
        raise ScheduleError(f"pad: {problem} in '{block}'")
    # As text: the operands are gone, and the context another one, when the trace is printed.
    zeros = [_zero(value.type) for value in op.operands]

    def build(root: Handle) -> None:
        structured.PadOp(
            match_block(root, block),
            padding_values=[ir.Attribute.parse(zero) for zero in zeros],
            padding_dimensions=dims,
            pad_to_multiple_of=[multiples[number] for number in dims],
            nofold_flags=[0] * len(zeros),
            copy_back_op="none",
        )
        clean(root)

    schedule.apply("pad", {"block": block, "multiples": list(multiples)}, build)


def _why_not(op: ir.OpView, dims: list[int]) -> str:
    """Why zeros would change the result of ``op``, or cannot be added; empty if they can."""
    names, kinds = loop_names(op), loop_kinds(op)
    if has_window(op):
        return "loops that move through a window cannot be padded"
    if any(inner.operation.name in TRAPS for inner in payload(op)):
        return "an integer would be divided by the zeros of the padding"
    for dim in dims:
        if kinds[dim] == "reduction" and not _adds_nothing(op, dim):
            return f"zeros along the reduction loop {names[dim]} would change the result"
    return ""


def _adds_nothing(op: ir.OpView, dim: int) -> bool:
    """Whether an iteration over zeros leaves the accumulator as it is.

    So do sums of products in which each factor is padded, and sums of one padded operand.
    """
    if linalg.isa_contraction_op(op.operation):
        return "arith.maximumf" not in [inner.operation.name for inner in payload(op)]
    inside = payload(op)
    position = ir.AffineDimExpr.get(dim, op.context)
    maps = indexing_maps(op)
    return (
        len(inside) == 1
        and inside[0].operation.name in SUMS
        and not captured(op)
        and len(inputs(op)) == 1
        and position in list(maps[0].results)
    )


def _zero(kind: ir.Type) -> str:
    element = ir.ShapedType(kind).element_type if isinstance(kind, ir.ShapedType) else kind
    return f"{0 if isinstance(element, ir.IntegerType) else 0.0} : {element}"
