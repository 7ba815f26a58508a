"""A schedule: transforms of one kernel, each applied at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlcflow.errors import ScheduleError, unknown_name
from mlcflow.graph.kernel import Kernel, find_kernels, read_kernel
from mlcflow.graph.outline import kernels
from mlcflow.mlir import func, ir
from mlcflow.schedule import fusion, labels, loops, memory, sampling, vectors
from mlcflow.schedule.emit import name_blocks
from mlcflow.schedule.interpret import Handle, apply
from mlcflow.schedule.labels import BIND, PARALLEL, Loop
from mlcflow.schedule.trace import Build, Step, Trace, plain


class Schedule:
    """Transforms one kernel of a module in place, a primitive at a time.

    ``module`` holds kernels (as after the stage ``kernels``), of which ``kernel`` names one;
    or a ``@main`` of linalg operations, which is then the kernel. ``Schedule(kernel)`` takes a
    ``Kernel``, as rules do.

    Blocks are linalg operations: ``root`` gives the kernel its kind, ``final`` gives its
    result, ``fill0``... and ``block0``... are the others. ``loops(block)`` lists the loops
    around and inside a block. A loop may be given as a ``Loop`` or as ``"block.name"``.

    Every primitive is checked before and applied at once, leaves verified IR that prints and
    runs, and is noted in ``trace``. What cannot be done raises ``ScheduleError``, which says
    what was expected and what was found, and changes nothing.
    """

    PRIMITIVES = frozenset(
        {
            "split", "tile", "reorder", "fuse", "parallel", "unroll", "bind", "annotate",
            "tile_and_fuse", "compute_at", "flatten", "rfactor", "decompose_reduction",
            "cache_read", "cache_write", "pack", "pad", "drop_unit_loops",
            "vectorize", "tensorize", "hoist",
            "sample_perfect_tile", "sample_categorical",
        }
    )  # fmt: skip

    def __init__(self, module: ir.Module | Kernel, kernel: str | None = None) -> None:
        self.kernel = module if isinstance(module, Kernel) else _find(module, kernel)
        self.function: func.FuncOp = self.kernel.function
        self.trace = Trace()
        self.gone: dict[str, Loop] = {}
        apply(self.function, name_blocks)
        self.final = "root" if self.kernel.final == self.kernel.root else "final"

    # Looking at the kernel.

    def blocks(self) -> list[str]:
        """The names of the blocks that are left, in order."""
        return list(labels.blocks(self.function))

    def block(self, name: str) -> ir.OpView:
        """The linalg operation of a block."""
        return labels.find_block(self.function, name)

    def loops(self, block: str) -> list[Loop]:
        """The loops around and inside ``block``, outermost first."""
        return labels.loops_of(self.function, block)

    def loop(self, name: Loop | str) -> Loop:
        """The loop ``block.name`` as it is now."""
        return self.gone.get(str(name)) or labels.find_loop(self.function, name)

    def __str__(self) -> str:
        return str(self.function)

    # Loops.

    def split(
        self, loop: Loop | str, factors: Sequence[int | None], *, peel: bool = False
    ) -> list[Loop]:
        """Split a loop inside a block into nested loops, outermost first.

        ``factors``: their extents, one of them ``None``. The last stays inside the block, the
        others become loops around it. Their product must divide the extent, or ``peel=True``
        makes a second block ``..._tail`` of what is left over. Upstream:
        ``transform.structured.tile_using_for``, ``transform.loop.peel``.
        """
        return loops.split(self, self.loop(loop), factors, peel=peel)

    def tile(self, block: str, sizes: Sequence[int]) -> list[Loop]:
        """Split several loops of ``block`` at once; 0 leaves a loop alone. Gives the outer loops.

        A size of the whole extent gives a loop of one iteration.
        """
        sizes = loops.full_sizes(self.block(block), sizes)
        names = labels.loop_names(self.block(block))
        made = []
        for name, size in zip(names, sizes, strict=True):
            if size:
                made.append(self.split(f"{block}.{name}", [None, size])[0])
        return [self.loop(loop) for loop in made]

    def reorder(self, *loops_in_order: Loop | str, **given: Sequence[Loop | str]) -> None:
        """Put loops of one block into the given order, at the places that they have together.

        A loop inside the block that must come before one around it moves outside. Loops
        around the block must be perfectly nested; reduction loops keep their order.
        """
        wanted = loops_in_order or given.get("loops", ())
        loops.reorder(self, [self.loop(loop) for loop in wanted])

    def fuse(self, outer: Loop | str, inner: Loop | str) -> Loop:
        """Make one loop of two, the second directly inside the first."""
        return loops.fuse(self, self.loop(outer), self.loop(inner))

    def unroll(self, loop: Loop | str, factor: int | None = None) -> None:
        """Repeat the body of a loop ``factor`` times, by default as often as it iterates."""
        loops.unroll(self, self.loop(loop), factor)

    def parallel(self, loop: Loop | str) -> Loop:
        """Mark a loop whose iterations may run at the same time."""
        return loops.mark(self, "parallel", self.loop(loop), PARALLEL, "threads")

    def bind(self, loop: Loop | str, to: str) -> Loop:
        """Map a loop to ``block.x``, ``thread.y``, ... of a GPU."""
        axes = [f"{level}.{axis}" for level in ("block", "warp", "thread") for axis in "xyz"]
        if to not in axes:
            raise ScheduleError(unknown_name("axis", to, axes))
        return loops.mark(self, "bind", self.loop(loop), BIND, to)

    def annotate(self, block: str, key: str, value: str) -> None:
        """Set a string attribute on a block, for a later stage to read."""
        fusion.annotate_block(self, block, key, value)

    # Fusion.

    def tile_and_fuse(
        self, block: str, sizes: Sequence[int], *, order: Sequence[int] = ()
    ) -> list[Loop]:
        """Tile ``block`` and compute its producers within the tile loops. Gives these loops.

        ``sizes``: a tile size for each loop, 0 (or nothing) for none; ``order``: the loops
        by number, outermost first. Upstream: ``transform.structured.fuse``.
        """
        return fusion.tile_and_fuse(self, block, sizes, order)

    def compute_at(self, block: str, loop: Loop | str) -> None:
        """Compute ``block`` inside ``loop``, as far as that iteration needs it.

        Upstream: ``transform.structured.fuse_into_containing_op``.
        """
        fusion.compute_at(self, block, self.loop(loop), "compute_at")

    def decompose_reduction(self, block: str, loop: Loop | str) -> None:
        """Set the initial value of the reduction ``block`` inside ``loop``."""
        fusion.decompose_reduction(self, block, self.loop(loop))

    def flatten(self, block: str) -> None:
        """Collapse the loops of an elementwise block into one.

        Upstream: ``transform.structured.flatten_elementwise``.
        """
        fusion.flatten(self, block)

    def drop_unit_loops(self) -> None:
        """Remove the loops of one iteration that are inside blocks."""
        fusion.drop_unit_loops(self)

    def rfactor(self, loop: Loop | str, lanes: int) -> str:
        """Reduce ``loop`` into ``lanes`` accumulators side by side, and these into one at the end.

        Gives the name of the block that joins them. Reorders the sum. Upstream:
        ``transform.structured.tile_reduction_using_for``.
        """
        return fusion.rfactor(self, self.loop(loop), lanes)

    # Memory.

    def cache_read(self, block: str, operand: int) -> str:
        """Copy what ``block`` reads as operand number ``operand`` into memory of its own.

        Gives the name of the block that copies.
        """
        return memory.cache_read(self, block, operand)

    def cache_write(self, block: str) -> str:
        """Let ``block`` write memory of its own, and a new block copy it to the destination."""
        return memory.cache_write(self, block)

    def pack(self, block: str, sizes: Sequence[int]) -> None:
        """Lay the operands of ``block`` out in tiles, contiguous each; 0 leaves a loop alone.

        Upstream: ``transform.structured.pack`` and ``lower_pack``.
        """
        memory.pack(self, block, sizes)

    def pad(self, block: str, multiples: Sequence[int]) -> None:
        """Make the extent of each loop a multiple, by zeros that do not change the result.

        Upstream: ``transform.structured.pad``.
        """
        memory.pad(self, block, multiples)

    # Vectors.

    def vectorize(self, *blocks: str, **given: Sequence[str]) -> None:
        """Turn blocks, by default all, into vector operations of the size of their tiles.

        Upstream: ``transform.structured.vectorize``.
        """
        vectors.vectorize(self, list(blocks or given.get("blocks", ())))

    def tensorize(self, block: str, intrinsic: str) -> None:
        """Map ``block`` to a hardware or library primitive: ``vector.contract``."""
        vectors.tensorize(self, block, intrinsic)

    def hoist(self) -> None:
        """Move what a loop does not change out of it; accumulators stay in registers."""
        vectors.hoist(self)

    # Choices.

    def sample_perfect_tile(
        self,
        loop: Loop | str,
        n: int,
        *,
        innermost: int = 64,
        decision: Sequence[int] | None = None,
    ) -> list[int]:
        """Decide how to split ``loop`` into ``n`` factors, the last up to ``innermost``.

        ``decision`` fixes the choice; otherwise a search space decides, or the first of a
        fixed random sequence.
        """
        found = self.loop(loop)
        options = sampling.perfect_tiles(found, n, innermost)
        arguments = {"loop": found, "n": n, "innermost": innermost, "decision": decision}
        return list(sampling.sample(self, "sample_perfect_tile", arguments, options))

    def sample_categorical(self, options: Sequence[Any], *, decision: Any = None) -> Any:
        """Decide between ``options``: numbers, strings or lists of them."""
        if not options:
            raise ScheduleError("sample_categorical: no options")
        arguments = {"options": list(options), "decision": decision}
        return sampling.sample(self, "sample_categorical", arguments, list(options))

    # What the primitives are made of.

    def record(self, primitive: str, arguments: dict[str, Any], decision: Any = None) -> Step:
        """Note a step; what :meth:`emit` applies next belongs to it."""
        values = {key: plain(value) for key, value in arguments.items()}
        step = Step(primitive, values, decision)
        self.trace.steps.append(step)
        return step

    def emit(self, build: Build) -> None:
        """Apply transform operations, as a part of the last step."""
        step = self.trace.steps[-1]

        def named(root: Handle) -> None:
            build(root)
            name_blocks(root)

        try:
            apply(self.function, named)
        except ScheduleError as error:
            if not step.builds:
                self.trace.steps.pop()
            raise ScheduleError(f"kernel '{self.kernel.name}': {step}: {error}") from error
        step.builds.append(named)

    def apply(self, primitive: str, arguments: dict[str, Any], build: Build) -> None:
        """Note a step and apply it."""
        self.record(primitive, arguments)
        self.emit(build)


def _find(module: ir.Module, name: str | None) -> Kernel:
    """The kernel of that name; the only function of the module if there is no kernel yet."""
    if not kernels(module):
        functions = [op for op in module.body.operations if isinstance(op, func.FuncOp)]
        chosen = [f for f in functions if name in (None, f.name.value) and not f.is_external]
        kernel = read_kernel(chosen[0]) if len(chosen) == 1 else None
        if kernel is None:
            names = [f.name.value for f in functions]
            raise ScheduleError(
                f"expected one function of linalg operations called {name or 'anything'}, "
                f"found {', '.join(names) or 'none'}"
            )
        return kernel
    known = {kernel.name: kernel for kernel in find_kernels(module)}
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name not in known:
        raise ScheduleError(unknown_name("kernel", str(name), known))
    return known[name]
