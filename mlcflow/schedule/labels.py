"""Names of blocks and loops, kept on the operations themselves.

A *block* is a linalg operation of the kernel; ``mlcflow.block`` names it and ``mlcflow.loops``
names its own loops, one for each iterator. Tiling turns a part of such a loop into an ``scf.for``
around the block, which carries its name in ``mlcflow.loop``, the block it was made for in
``mlcflow.of`` and what it iterates over, ``parallel`` or ``reduction``, in ``mlcflow.kind``.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from mlcflow.errors import ScheduleError, unknown_name
from mlcflow.graph.kernel import Kernel, loop_extents
from mlcflow.graph.linalg_ops import indexing_maps, is_linalg, loop_kinds
from mlcflow.mlir import func, ir, scf, walk

BLOCK, LOOPS, LOOP, KIND = "mlcflow.block", "mlcflow.loops", "mlcflow.loop", "mlcflow.kind"
OF = "mlcflow.of"
PARALLEL, BIND = "mlcflow.parallel", "mlcflow.bind"
INTRINSIC = "mlcflow.intrinsic"
LOOP_KEYS = (LOOP, OF, KIND, PARALLEL, BIND)
"""What a loop carries; whoever replaces a loop takes it along."""
RESERVED = frozenset({BLOCK, LOOPS, INTRINSIC, *LOOP_KEYS})
"""What schedules write."""
LETTERS = "ijklmnopqrst"


@dataclass(frozen=True)
class Loop:
    """A loop of a block: ``extent`` iterations (-1 where open) of ``kind``.

    ``op`` is the ``scf.for`` that is this loop, or ``None`` while it is inside the block.
    ``is_gone``: it had one iteration, for which upstream makes no loop.
    ``of`` is the block it was made for, which differs where ``block`` was fused into it.
    Printed as ``block.name``, which every primitive takes in its place.
    """

    block: str
    name: str
    extent: int
    kind: str
    op: scf.ForOp | None = None
    is_gone: bool = False
    of: str = ""

    def __str__(self) -> str:
        return f"{self.block}.{self.name}"


def label(kernel: Kernel) -> None:
    """Name the blocks of a kernel and their loops, if none has a name yet.

    ``root`` is the block that gives the kernel its kind, ``final`` the last one, ``fill0``...
    are the fills and ``block0``... the others.
    """
    if any(_text(op, BLOCK) for op in kernel.blocks):
        return
    counts: dict[str, int] = {}
    for op in kernel.blocks:
        if op == kernel.root:
            name = "root"
        elif op == kernel.final:
            name = "final"
        else:
            base = "fill" if op.operation.name == "linalg.fill" else "block"
            name = f"{base}{counts.setdefault(base, 0)}"
            counts[base] += 1
        set_names(op, name, list(LETTERS[: indexing_maps(op)[0].n_dims]))


def label_new(function: func.FuncOp) -> None:
    """Name the blocks that a primitive made: ``new0``...

    A copy of a block or loop (the remainder of a peeled loop, the second round of an unrolled
    one) is not the first of its name and gets ``_tail`` added.
    """
    seen: set[str] = set()
    seen_loops: set[tuple[str, str]] = set()
    for op in walk(function):
        if isinstance(op, scf.ForOp) and _text(op, LOOP):
            _name_copy(op, seen_loops)
        if not is_linalg(op):
            continue
        name = _text(op, BLOCK)
        if not name:
            taken = set(blocks(function))
            name = next(f"new{n}" for n in range(len(taken) + 1) if f"new{n}" not in taken)
        name = free(name, "_tail", seen)
        seen.add(name)
        loops = loop_names(op)
        depth = indexing_maps(op)[0].n_dims
        loops = loops if len(loops) == depth else list(LETTERS[:depth])
        around = {_text(loop, LOOP) for loop in enclosing(op)}
        # A block that was fused into the loops of another may use the same names.
        set_names(op, name, [free(loop, "_1", around) for loop in loops])


def _name_copy(op: scf.ForOp, seen: set[tuple[str, str]]) -> None:
    of = _text(op, OF)
    name = free(_text(op, LOOP), "_tail", {loop for block, loop in seen if block == of})
    op.attributes[LOOP] = ir.StringAttr.get(name, op.context)
    seen.add((of, name))


def free(name: str, suffix: str, taken: Container[str]) -> str:
    """``name``, with ``suffix`` and a number added while it is taken."""
    candidates = itertools.chain([name, f"{name}{suffix}"], _numbered(f"{name}{suffix}"))
    return next(candidate for candidate in candidates if candidate not in taken)


def _numbered(name: str) -> Iterator[str]:
    return (f"{name}{number}" for number in itertools.count(2))


def set_names(op: ir.OpView, block: str, loops: list[str]) -> None:
    """Write the names of a block and its loops."""
    context = op.operation.context
    op.operation.attributes[BLOCK] = ir.StringAttr.get(block, context)
    names = [ir.StringAttr.get(name, context) for name in loops]
    op.operation.attributes[LOOPS] = ir.ArrayAttr.get(names, context)


def clear(function: func.FuncOp) -> None:
    """Remove the names, which mean nothing outside a schedule."""
    for op in walk(function):
        for key in (BLOCK, LOOPS, LOOP, OF, KIND):
            if key in op.operation.attributes:
                del op.operation.attributes[key]


def blocks(function: func.FuncOp) -> dict[str, ir.OpView]:
    """The blocks that are left, by name, in order."""
    return {_text(op, BLOCK): op for op in walk(function) if is_linalg(op) and _text(op, BLOCK)}


def find_block(function: func.FuncOp, name: str) -> ir.OpView:
    """The block called ``name``. Raises ``ScheduleError`` with the near misses."""
    found = blocks(function)
    if name not in found:
        raise ScheduleError(unknown_name("block", name, found))
    return found[name]


def loop_names(op: ir.OpView) -> list[str]:
    """The names of the loops inside a block."""
    if LOOPS not in op.operation.attributes:
        return []
    return [ir.StringAttr(a).value for a in ir.ArrayAttr(op.operation.attributes[LOOPS])]


def loops_of(function: func.FuncOp, block: str) -> list[Loop]:
    """The loops around and inside a block, outermost first."""
    op = find_block(function, block)
    found = [_outer(block, loop) for loop in enclosing(op)]
    extents, kinds = loop_extents(op), loop_kinds(op)
    for name, extent, kind in zip(loop_names(op), extents, kinds, strict=True):
        found.append(Loop(block, name, extent, kind))
    return found


def find_loop(function: func.FuncOp, loop: Loop | str, gone: Mapping[str, Loop]) -> Loop:
    """The loop as it is now. Raises ``ScheduleError`` with the near misses.

    A loop around the block hides one of ``gone`` that had its name before.
    """
    block, _, name = str(loop).partition(".")
    known = {each.name: each for each in loops_of(function, block)}
    if str(loop) in gone and (name not in known or known[name].op is None):
        return gone[str(loop)]
    if name not in known:
        raise ScheduleError(unknown_name(f"loop of block '{block}'", name, known))
    return known[name]


def enclosing(op: ir.OpView) -> list[scf.ForOp]:
    """The named loops around ``op``, outermost first."""
    found: list[scf.ForOp] = []
    parent = op.operation.parent.opview
    while not isinstance(parent, func.FuncOp):
        if isinstance(parent, scf.ForOp) and _text(parent, LOOP):
            found.append(parent)
        parent = parent.operation.parent.opview
    return found[::-1]


def _outer(block: str, op: scf.ForOp) -> Loop:
    return Loop(block, _text(op, LOOP), trip_count(op), _text(op, KIND), op, of=_text(op, OF))


def trip_count(op: scf.ForOp) -> int:
    """Iterations of an ``scf.for`` with constant bounds; -1 where they are not."""
    bounds = [constant(value) for value in (op.lowerBound, op.upperBound, op.step)]
    if None in bounds:
        return -1
    low, high, step = (bound or 0 for bound in bounds)
    return max(0, -(-(high - low) // step))


def constant(value: ir.Value) -> int | None:
    """The integer that a value is known to be."""
    owner = value.owner
    if isinstance(owner, ir.Block) or owner.operation.name != "arith.constant":
        return None
    return ir.IntegerAttr(owner.operation.attributes["value"]).value


def intrinsic_of(op: ir.OpView) -> str:
    """What ``tensorize`` has mapped a block to; empty for any other operation."""
    return _text(op, INTRINSIC)


def _text(op: ir.OpView, key: str) -> str:
    attributes = op.operation.attributes
    return ir.StringAttr(attributes[key]).value if key in attributes else ""


def has_window(op: ir.OpView) -> bool:
    """Whether loops are added up to a position, as those of a convolution."""
    simple = (ir.AffineDimExpr, ir.AffineConstantExpr)
    return not all(isinstance(e, simple) for m in indexing_maps(op) for e in m.results)
