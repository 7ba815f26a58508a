"""A schedule: transforms of one kernel, each applied at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlcflow.graph.kernel import Kernel
from mlcflow.mlir import func, ir
from mlcflow.schedule import fusion, labels, loops, memory, order, sampling, shape, split, vectors
from mlcflow.schedule.atomic import PRIMITIVE, primitive
from mlcflow.schedule.emit import name_blocks
from mlcflow.schedule.find import find_kernel
from mlcflow.schedule.interpret import apply
from mlcflow.schedule.labels import PARALLEL, Loop
from mlcflow.schedule.rolling import rolling_update
from mlcflow.schedule.tensorize import tensorize
from mlcflow.schedule.trace import Build, Step, Trace, apply_to, plain

if TYPE_CHECKING:
    from mlcflow.report.explain import Explanation
    from mlcflow.target import Target


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

    def __init__(self, module: ir.Module | Kernel, kernel: str | None = None) -> None:
        self.module = module  # operations do not keep the module that owns them alive
        self.kernel = module if isinstance(module, Kernel) else find_kernel(module, kernel)
        self.function: func.FuncOp = self.kernel.function
        self.original = self.function.operation.clone(ip=False)  # what ``explain`` starts from
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
        return labels.find_loop(self.function, name, self.gone)

    def __str__(self) -> str:
        return str(self.function)

    # Loops.

    @primitive
    def split(
        self, loop: Loop | str, factors: Sequence[int | None], *, peel: bool = False
    ) -> list[Loop]:
        """Split a loop into nested loops, outermost first.

        ``factors``: their extents, one of them ``None``. Of a loop inside a block the last
        stays inside, the others become loops around it. Their product must divide the extent;
        or, of a loop inside a block, ``peel=True`` makes a second block ``..._tail`` of what
        is left over. Upstream: ``transform.structured.tile_using_for``, ``loop.peel``.
        """
        return split.split(self, self.loop(loop), factors, peel=peel)

    @primitive
    def tile(self, block: str, sizes: Sequence[int]) -> list[Loop]:
        """Split several loops of ``block`` at once, 0 for none; gives the outer loops."""
        return loops.tile(self, block, sizes)

    @primitive
    def reorder(self, *loops_in_order: Loop | str, **given: Sequence[Loop | str]) -> None:
        """Put loops of one block into the given order, at the places that they have together.

        A loop inside the block that must come before one around it moves outside. Loops
        around the block must be perfectly nested; reduction loops keep their order.
        """
        wanted = loops_in_order or given.get("loops", ())
        order.reorder(self, [self.loop(loop) for loop in wanted])

    @primitive
    def interchange(self, block: str, permutation: Sequence[int]) -> None:
        """Put loops inside ``block`` in an order, by number (``structured.interchange``)."""
        order.interchange(self, block, permutation)

    @primitive
    def peel(self, loop: Loop | str) -> Loop:
        """Do the first iteration of a loop apart, in blocks ``..._first``; gives that of others."""
        return split.peel(self, self.loop(loop))

    @primitive
    def fuse(self, outer: Loop | str, inner: Loop | str) -> Loop:
        """Make one loop of two, the second directly inside the first."""
        return order.fuse(self, self.loop(outer), self.loop(inner))

    @primitive
    def unroll(self, loop: Loop | str, factor: int | None = None) -> None:
        """Repeat the body of a loop ``factor`` times, by default as often as it iterates."""
        loops.unroll(self, self.loop(loop), factor)

    @primitive
    def parallel(self, loop: Loop | str) -> Loop:
        """Mark a loop whose iterations may run at the same time."""
        return loops.mark(self, "parallel", self.loop(loop), PARALLEL, "threads")

    @primitive
    def bind(self, loop: Loop | str, to: str) -> Loop:
        """Map a loop to ``block.x``, ``thread.y``, ... of a GPU."""
        return loops.bind(self, self.loop(loop), to)

    @primitive
    def annotate(self, block: str, key: str, value: str) -> None:
        """Set a string attribute on a block, for a later stage to read."""
        shape.annotate_block(self, block, key, value)

    # Fusion.

    @primitive
    def tile_and_fuse(
        self, block: str, sizes: Sequence[int], *, order: Sequence[int] = (), overlap: bool = False
    ) -> list[Loop]:
        """Tile ``block`` and compute its producers within the tile loops. Gives these loops.

        ``sizes``: a tile size for each loop, 0 (or nothing) for none; ``order``: the loops
        by number, outermost first. A size divides the extent; or, with ``overlap``, the last
        tile starts so early that it is whole, and computes some elements a second time.
        Upstream: ``transform.structured.fuse``.
        """
        return fusion.tile_and_fuse(self, block, sizes, order, overlap=overlap)

    @primitive
    def compute_at(self, block: str, loop: Loop | str) -> None:
        """Compute ``block`` inside ``loop``, as far as that iteration needs it.

        Upstream: ``transform.structured.fuse_into_containing_op``.
        """
        fusion.compute_at(self, block, self.loop(loop), "compute_at")

    @primitive
    def reverse_compute_at(self, block: str, loop: Loop | str) -> None:
        """Compute the elementwise ``block`` inside ``loop``, on the tile made there.

        The loops down to ``loop`` are parallel, perfectly nested, and nothing else reads them.
        """
        fusion.reverse_compute_at(self, block, self.loop(loop))

    @primitive
    def decompose_reduction(self, block: str, loop: Loop | str) -> None:
        """Set the initial value of the reduction ``block`` inside the parallel ``loop``."""
        fusion.decompose_reduction(self, block, self.loop(loop))

    @primitive
    def rolling_update(self, block: str, size: int) -> Loop:
        """Let the softmax of the product ``block``, and what it weighs, go by ``size`` scores."""
        return rolling_update(self, block, size)

    @primitive
    def flatten(self, block: str) -> None:
        """Collapse the loops of an elementwise block into one (``flatten_elementwise``)."""
        shape.flatten(self, block)

    @primitive
    def drop_unit_loops(self) -> None:
        """Remove the loops of one iteration that are inside blocks; before ``vectorize``."""
        shape.drop_unit_loops(self)

    @primitive
    def rfactor(self, loop: Loop | str, lanes: int) -> str:
        """Reduce into ``lanes`` accumulators side by side, and these into one in a block it gives.

        Upstream: ``transform.structured.tile_reduction_using_for``.
        """
        return shape.rfactor(self, self.loop(loop), lanes)

    # Memory.

    @primitive
    def cache_read(
        self,
        block: str,
        operand: int,
        *,
        panels: Loop | str | None = None,
        permutation: Sequence[int] = (),
        ahead: Loop | str | None = None,
    ) -> str:
        """Copy operand ``operand`` of ``block`` into memory of its own; gives the copying block.

        With ``panels``, a loop around the block, what it reads is copied ahead of the loop, or
        of the loop ``ahead`` around it that reads the same in each iteration: a panel an iteration,
        its dimensions as ``permutation`` says. Those of parameters are made in ``@prepare``.
        """
        return memory.cache_read(self, block, operand, (panels, ahead), permutation)

    @primitive
    def cache_write(self, block: str) -> str:
        """Let ``block`` write memory of its own, and a new block copy it to the destination."""
        return memory.cache_write(self, block)

    @primitive
    def pack(self, block: str, sizes: Sequence[int]) -> None:
        """Lay the operands of ``block`` out in tiles, contiguous each; 0 leaves a loop alone.

        Upstream: ``transform.structured.pack`` and ``lower_pack``.
        """
        memory.pack(self, block, sizes)

    @primitive
    def pad(self, block: str, multiples: Sequence[int]) -> None:
        """Make the extent of each loop a multiple by zeros without effect (``structured.pad``)."""
        memory.pad(self, block, multiples)

    # Vectors.

    @primitive
    def vectorize(self, *blocks: str, **given: Sequence[str]) -> None:
        """Turn blocks, by default all, into vectors of their tiles (``structured.vectorize``)."""
        vectors.vectorize(self, list(blocks or given.get("blocks", ())))

    @primitive
    def tensorize(self, block: str, intrinsic: str, target: Target | None = None) -> None:
        """Map ``block`` to ``vector.contract``, ``x86.dot``, ``nvgpu.mma``, or ``library:NAME``.

        Others, such as ``nvvm.wgmma``: see ``schedule.dot.to_dots``, ``schedule.mma.to_mma``.
        Refused for a target that lacks it.
        """
        tensorize(self, block, intrinsic, target)

    @primitive
    def hoist(self) -> None:
        """Move what a loop does not change out of it; accumulators stay in registers."""
        vectors.hoist(self)

    # Choices.

    @primitive
    def sample_perfect_tile(
        self, loop: Loop | str, n: int, *, innermost: int = 64, decision: Any = None
    ) -> list[int]:
        """Decide how to split ``loop`` into ``n`` factors, the last up to ``innermost``.

        ``decision`` fixes the choice; otherwise a search space decides, or the first of a
        fixed random sequence.
        """
        arguments = {"loop": self.loop(loop), "n": n, "innermost": innermost}
        return list(sampling.sample_perfect_tile(self, arguments, decision))

    @primitive
    def sample_categorical(self, options: Sequence[Any], *, decision: Any = None) -> Any:
        """Decide between ``options``: numbers, strings or lists of them."""
        return sampling.sample_categorical(self, list(options), decision)

    def explain(self, *, measure: bool = False) -> Explanation:
        """What each step matched, changed and, with ``measure``, brought."""
        from mlcflow.report.explain import explain

        return explain(self, measure=measure)

    # What the primitives are made of.

    def record(self, primitive: str, arguments: dict[str, Any], decision: Any = None) -> Step:
        """Note a step; what :meth:`emit` applies next belongs to it."""
        values = {key: plain(value) for key, value in arguments.items()}
        step = Step(primitive, values, decision)
        self.trace.steps.append(step)
        return step

    def emit(self, build: Build) -> None:
        """Apply transform operations, as a part of the last step."""
        apply_to(self.function, self.trace.steps[-1], build, self.kernel.name)

    def apply(self, primitive: str, arguments: dict[str, Any], build: Build) -> None:
        """Note a step and apply it."""
        self.record(primitive, arguments)
        self.emit(build)

    PRIMITIVES = frozenset(name for name, f in list(locals().items()) if hasattr(f, PRIMITIVE))
    """The names of the methods that a trace may hold."""
