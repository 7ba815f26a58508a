"""The memory plan: one arena for everything that lives within a call."""

from __future__ import annotations

import math

from mlcflow.graph.arena import Interval, lower_bound, place
from mlcflow.graph.in_place import overwritable
from mlcflow.graph.interface import ENTRY_POINTS, add_argument
from mlcflow.mlir import arith, func, ir, memref, walk

ALIGNMENT = 64

PLAN = "mlcflow.memory"
"""The attribute of a module that tells its memory plan; see ``_record``."""

SCRATCH = "mlcflow.scratch"
"""The attribute of an allocation, or an argument of a kernel, that is lent to a kernel; on an
argument, with the bytes of each thread's piece, where each has one."""

VIEWS = frozenset(
    f"memref.{name}"
    for name in (
        "cast",
        "collapse_shape",
        "expand_shape",
        "memory_space_cast",
        "reinterpret_cast",
        "subview",
        "transpose",
        "view",
    )
)
"""Operations that name memory in another way and touch none."""
_RESHAPES = ("memref.collapse_shape", "memref.expand_shape")


def plan_memory(module: ir.Module) -> None:
    """Replace the allocations of ``@main`` by views of an arena that the caller passes.

    Buffers that are not alive at the same time share memory. Allocations whose size is known
    at run time only, or that leave the function, stay.
    """
    if PLAN in module.operation.attributes:
        return  # a module of a later stage
    for function in module.body.operations:
        if isinstance(function, func.FuncOp) and function.name.value == ENTRY_POINTS[0]:
            _plan(function, module)


def _plan(main: func.FuncOp, module: ir.Module) -> None:
    number = _number(main.entry_block)
    planned: list[tuple[memref.AllocOp, Interval]] = []
    for op in number:
        if isinstance(op, memref.AllocOp) and ir.MemRefType(op.memref.type).has_static_shape:
            used = touches(op.memref, number)
            if used is not None:
                size = buffer_bytes(ir.MemRefType(op.memref.type))
                first, last = min(used, default=number[op]), max(used, default=number[op])
                planned.append((op, Interval(size, first, last)))
    intervals = [interval for _, interval in planned]
    groups = _groups(number, [op for op, _ in planned], intervals)
    shared = [_union([intervals[i] for i in group]) for group in groups]
    starts, total = place(shared)
    offsets = {i: at for group, at in zip(groups, starts, strict=True) for i in group}
    names = {step: _name(op) for op, step in number.items() if _is_step(op)}
    buffers = [
        _buffer(op, interval, offsets[i], in_place=any(i in group[1:] for group in groups))
        for i, (op, interval) in enumerate(planned)
    ]
    if planned:
        _use_arena(
            main, [op for op, _ in planned], [offsets[i] for i in range(len(planned))], total
        )
    _record(module, buffers, total, lower_bound(shared), names)


def _number(block: ir.Block) -> dict[ir.OpView, int]:
    """For each operation, the number of the step that it is, or that comes next.

    A step is an operation that does something to memory: in a graph, a call of a kernel.
    """
    number, steps = {}, 0
    for op in block.operations:
        number[op] = steps
        steps += _is_step(op)
    return number


def _is_step(op: ir.OpView) -> bool:
    if isinstance(op, func.ReturnOp):
        return False
    return not op.results or isinstance(op, func.CallOp) or bool(op.operation.regions)


def _name(op: ir.OpView) -> str:
    return op.callee.value if isinstance(op, func.CallOp) else op.operation.name


def _groups(
    number: dict[ir.OpView, int], found: list[memref.AllocOp], intervals: list[Interval]
) -> list[list[int]]:
    """Buffers by number, those that are the same memory together, in the order of their lives.

    A kernel writes its result over an argument that nobody reads after it, where it may.
    """
    groups = {i: [i] for i in range(len(found))}
    index = {op.memref: i for i, op in enumerate(found)}
    known: dict[str, set[tuple[int, int]]] = {}
    for call, step in number.items():
        if not isinstance(call, func.CallOp):
            continue
        if call.callee.value not in known:
            known[call.callee.value] = _overwritable(call)
        passed = [index.get(_whole(operand)) for operand in call.operands]
        for argument, result in sorted(known[call.callee.value]):
            a, b = passed[argument], passed[result]
            if a is None or b is None or passed.count(a) > 1 or passed.count(b) > 1:
                continue
            fits = intervals[a].last == step == intervals[b].first
            if fits and intervals[a].size == intervals[b].size and a == groups[a][-1]:
                groups[a].append(b)
                groups[b] = groups[a]
    return [group for i, group in groups.items() if group[0] == i]


def _overwritable(call: func.CallOp) -> set[tuple[int, int]]:
    module = call.operation.parent.parent.regions[0].blocks[0]
    callee = call.callee.value
    for op in module.operations:
        if isinstance(op, func.FuncOp) and op.name.value == callee and not op.is_external:
            return overwritable(op)
    return set()


def _whole(value: ir.Value) -> ir.Value:
    """The memref that ``value`` is, in another shape."""
    while not isinstance(value.owner, ir.Block) and value.owner.name in _RESHAPES:
        value = value.owner.operands[0]
    return value


def _union(intervals: list[Interval]) -> Interval:
    return Interval(intervals[0].size, intervals[0].first, max(i.last for i in intervals))


def _use_arena(
    main: func.FuncOp, found: list[memref.AllocOp], offsets: list[int], total: int
) -> None:
    i8 = ir.IntegerType.get_signless(8)
    arena = add_argument(main, ir.MemRefType.get([total], i8), "arena", "arena")
    for op, offset in zip(found, offsets, strict=True):
        with ir.InsertionPoint(op), op.location:
            shift = arith.constant(ir.IndexType.get(), offset)
            view = memref.view(op.memref.type, arena, shift, [])
        op.memref.replace_all_uses_with(view)
        op.operation.erase()


def _buffer(op: memref.AllocOp, interval: Interval, offset: int, *, in_place: bool) -> ir.DictAttr:
    """What the plan tells of one buffer."""
    entries: dict[str, ir.Attribute] = {
        "offset": _i64(offset),
        "bytes": _i64(interval.size),
        "first": _i64(interval.first),
        "last": _i64(interval.last),
        "type": ir.TypeAttr.get(op.memref.type),
    }
    if SCRATCH in op.attributes:
        entries["scratch"] = op.attributes[SCRATCH]
    if in_place:
        entries["in_place"] = ir.UnitAttr.get()
    return ir.DictAttr.get(entries)


def _record(
    module: ir.Module, buffers: list[ir.DictAttr], total: int, least: int, names: dict[int, str]
) -> None:
    """Keep the plan as an attribute of the module, for ``exe.memory()``.

    ``steps``: what ``@main`` does, in order. ``buffers``: the places in the arena and the steps
    of the first and last use. ``allocations``: what is still allocated at each call, by function.
    """
    allocations = [
        ir.DictAttr.get({"function": function.name, "type": ir.TypeAttr.get(op.memref.type)})
        for function in module.body.operations
        if isinstance(function, func.FuncOp) and function.name.value != ENTRY_POINTS[1]
        for op in walk(function)
        if isinstance(op, memref.AllocOp)
    ]
    module.operation.attributes[PLAN] = ir.DictAttr.get(
        {
            "arena": _i64(total),
            "lower_bound": _i64(least),
            "steps": ir.ArrayAttr.get([ir.StringAttr.get(names[step]) for step in sorted(names)]),
            "buffers": ir.ArrayAttr.get(buffers),
            "allocations": ir.ArrayAttr.get(allocations),
        }
    )


def _i64(value: int) -> ir.IntegerAttr:
    return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)


def buffer_bytes(kind: ir.MemRefType) -> int:
    """Size in memory, rounded up to the alignment; a zero-sized buffer takes one unit."""
    text = str(kind.element_type)
    if text == "index":
        width = 8
    elif isinstance(kind.element_type, ir.ComplexType):
        width = ir.ComplexType(kind.element_type).element_type.width // 4
    else:
        width = max(1, kind.element_type.width // 8)
    return max(1, -(-math.prod(kind.shape) * width // ALIGNMENT)) * ALIGNMENT


def touches(value: ir.Value, number: dict[ir.OpView, int]) -> set[int] | None:
    """The numbers of the operations that may touch the memory of ``value``.

    ``number`` has the operations of one block; what is nested in one has its number. ``None``
    if the memory leaves the function. Every memref that an operation makes from an alias of
    ``value`` is taken for an alias.
    """
    found: set[int] = set()
    pending, seen = [value], {value}
    while pending:
        for use in pending.pop().uses:
            op = use.owner.operation
            if op.name == "func.return":
                return None
            around = op.name in ("scf.yield", "scf.condition")
            results = list(op.parent.results if around else op.results)
            aliases = {
                result
                for result in results
                if isinstance(result.type, ir.MemRefType | ir.UnrankedMemRefType)
            }
            pending += aliases - seen
            seen |= aliases
            if op.name not in VIEWS:
                while op.opview not in number:
                    op = op.parent
                found.add(number[op.opview])
    return found
