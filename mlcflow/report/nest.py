"""A kernel in short: its loops as an indented list, and its operations by kind."""

from __future__ import annotations

from collections import Counter

from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import is_linalg, loop_kinds
from mlcflow.mlir import func, ir, scf, walk
from mlcflow.schedule.labels import BIND, BLOCK, KIND, LOOP, PARALLEL, loop_names, trip_count

_WORK = ("vector.", "math.", "x86.", "func.call", "linalg.", "memref.copy", "tensor.pad")
"""Operations that move or compute data; the others only say where."""


def nest(function: func.FuncOp) -> tuple[str, ...]:
    """The loops and blocks of a kernel, a line each, indented by depth.

    Equal operations between two blocks or loops share a line, with their number.
    """
    return tuple(_lines(function.regions[0], ""))


def count_operations(function: func.FuncOp) -> Counter[str]:
    """How many operations of each name the function has, those inside blocks not counted."""
    inside = {inner for op in walk(function) if is_linalg(op) for inner in walk(op)}
    return Counter(op.operation.name for op in walk(function) if op not in inside)


def _lines(region: ir.Region, indent: str) -> list[str]:
    lines: list[str] = []
    others: Counter[str] = Counter()

    def flush() -> None:
        lines.extend(indent + (name if n == 1 else f"{n} x {name}") for name, n in others.items())
        others.clear()

    for op in region.blocks[0].operations if region.blocks else ():
        if is_linalg(op):
            flush()
            lines.append(indent + describe_block(op))
        elif op.operation.regions:
            flush()
            lines.append(indent + _loop(op))
            for inner in op.operation.regions:
                lines += _lines(inner, indent + "  ")
        elif _is_work(op):
            others[_short(op)] += 1
    flush()
    return lines


def describe_block(op: ir.OpView) -> str:
    """``root: matmul over i 8, j 32, k 4 (reduction)``."""
    name = _text(op, BLOCK)
    extents, kinds = loop_extents(op), loop_kinds(op)
    names = loop_names(op) or [f"d{number}" for number in range(len(extents))]
    loops = [
        f"{loop} {'?' if extent < 0 else extent}" + (" (reduction)" if kind == "reduction" else "")
        for loop, extent, kind in zip(names, extents, kinds, strict=True)
    ]
    over = f" over {', '.join(loops)}" if loops else ""
    return f"{name + ': ' if name else ''}{op.operation.name.removeprefix('linalg.')}{over}"


def _loop(op: ir.OpView) -> str:
    if not isinstance(op, scf.ForOp):
        return op.operation.name
    count = trip_count(op)
    marks = ["reduction"] if _text(op, KIND) == "reduction" else []
    marks += [mark for mark in (_text(op, PARALLEL), _text(op, BIND)) if mark]
    words = f"for {_text(op, LOOP) or '_'} in {'?' if count < 0 else count}"
    return words + (f" ({', '.join(marks)})" if marks else "")


def _is_work(op: ir.OpView) -> bool:
    name = op.operation.name
    return name.startswith(_WORK) or any(
        isinstance(result.type, ir.VectorType) and name != "arith.constant"
        for result in op.operation.results
    )


def _short(op: ir.OpView) -> str:
    """The name, and what it calls or the shape of the vector that it makes or writes."""
    if isinstance(op, func.CallOp):
        return f"call @{op.callee.value}"
    values = [*op.operation.results, *op.operation.operands]
    vectors = [value.type for value in values if isinstance(value.type, ir.VectorType)]
    shape = "x".join([*map(str, vectors[0].shape), str(vectors[0].element_type)]) if vectors else ""
    return f"{op.operation.name} {shape}".strip()


def _text(op: ir.OpView, key: str) -> str:
    attributes = op.operation.attributes
    return ir.StringAttr(attributes[key]).value if key in attributes else ""
