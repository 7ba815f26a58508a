"""A schedule: transforms of one kernel, each applied at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlcflow.errors import ScheduleError
from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import is_linalg
from mlcflow.mlir import ir, loop_transform, structured, tensor_transform, transform, walk
from mlcflow.passes import Pass
from mlcflow.schedule.interpret import Handle, apply

BLOCK = "mlcflow.block"


class Schedule:
    """Transforms the function of ``kernel`` in place, a primitive at a time.

    The linalg operations of the kernel are its *blocks*. ``root`` names the operation that
    gives the kernel its kind, ``final`` the last one, ``fill0``, ``fill1``... the fills and
    ``block0``... the others, ``new0``... those that a primitive made; the names stay with the
    operations as they are tiled.
    Every primitive leaves verified IR, raises ``ScheduleError`` when what it asks for is not
    there, and is noted in ``trace``.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.trace: list[str] = []
        self._made = 0
        counts = {"fill": 0, "block": 0}
        for op in kernel.blocks:
            if op == kernel.root:
                name = "root"
            elif op == kernel.final:
                name = "final"
            else:
                base = "fill" if op.operation.name == "linalg.fill" else "block"
                name = f"{base}{counts[base]}"
                counts[base] += 1
            op.operation.attributes[BLOCK] = ir.StringAttr.get(name, kernel.function.context)
        self.final = "root" if kernel.final == kernel.root else "final"

    def tile_and_fuse(
        self, block: str, sizes: Sequence[int], *, order: Sequence[int] = ()
    ) -> Schedule:
        """Tile ``block`` and compute its producers within the tile loops.

        ``sizes``: a tile size a loop, 0 for no loop; ``order``: the loops, outermost first.
        Upstream: ``transform.structured.fuse``.
        """

        def build(root: Handle) -> None:
            structured.FuseOp(
                _match(root, block),
                tile_sizes=list(sizes),
                tile_interchange=list(order),
                apply_cleanup=True,
            )
            _clean(root)

        return self._apply(f"tile_and_fuse({block!r}, {list(sizes)}, {list(order)})", block, build)

    def tile(self, block: str, sizes: Sequence[int]) -> Schedule:
        """Tile the loops of ``block`` alone. Upstream: ``transform.structured.tile_using_for``."""

        def build(root: Handle) -> None:
            structured.TileUsingForOp(_match(root, block), sizes=list(sizes))
            _clean(root)

        return self._apply(f"tile({block!r}, {list(sizes)})", block, build)

    def rfactor(self, block: str, sizes: Sequence[int]) -> Schedule:
        """Reduce into several accumulators side by side, and these into one at the end.

        ``sizes``: how many for each loop of ``block``, 0 for a loop that is no reduction.
        Reorders the reduction. Upstream: ``transform.structured.tile_reduction_using_for``.
        """
        dimensions = [number for number, size in enumerate(sizes) if size]

        def build(root: Handle) -> None:
            any_op = transform.AnyOpType.get()
            structured.TileReductionUsingForOp(
                [any_op],
                any_op,
                any_op,
                any_op,
                _match(root, block),
                reduction_dims=dimensions,
                tile_sizes=list(sizes),
            )
            _clean(root)

        return self._apply(f"rfactor({block!r}, {list(sizes)})", block, build)

    def flatten(self, block: str) -> Schedule:
        """Collapse the loops of an elementwise block into one.

        Upstream: ``transform.structured.flatten_elementwise``.
        """

        def build(root: Handle) -> None:
            structured.FlattenElementwiseLinalgOp(_match(root, block))
            _clean(root)

        return self._apply(f"flatten({block!r})", block, build)

    def drop_unit_loops(self) -> Schedule:
        """Remove loops of one iteration from every block, by slices of lower rank."""

        def build(root: Handle) -> None:
            with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
                structured.ApplyFoldUnitExtentDimsViaSlicesPatternsOp()
                transform.ApplyCanonicalizationPatternsOp()
            _clean(root)

        return self._apply("drop_unit_loops()", "", build)

    def vectorize(self, sizes: Sequence[int] = ()) -> Schedule:
        """Turn every block into vector operations of the size of its tile.

        ``sizes``: vector sizes for the loops of ``final`` when its tile is not static; what
        lies beyond the tile is masked. Upstream: ``transform.structured.vectorize``.
        """

        def build(root: Handle) -> None:
            for block in self._present():
                vectorized = structured.VectorizeOp(
                    _match(root, block), list(sizes) if block == self.final else []
                )
                # Without it the vectorizer broadcasts the operands of a contraction, which
                # then never becomes a vector.contract.
                vectorized.operation.attributes["create_named_contraction"] = ir.UnitAttr.get()
            with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
                tensor_transform.ApplyFoldTensorSubsetOpsIntoVectorTransfersPatternsOp()
                transform.ApplyCanonicalizationPatternsOp()

        return self._apply(f"vectorize({list(sizes)})", "", build)

    def hoist(self) -> Schedule:
        """Move what a loop does not change out of it; accumulators stay in registers."""
        for name in ("loop-invariant-code-motion", "loop-invariant-subset-hoisting"):
            self._pass(Pass(name, on="func.func"))
        self.trace.append("hoist()")
        return self

    def _pass(self, step: Pass) -> None:
        from mlcflow.mlir import passmanager

        with self.kernel.function.context:
            inner = str(step).removeprefix("func.func(").removesuffix(")")
            manager = passmanager.PassManager.parse(f"func.func({inner})")
            manager.run(self.kernel.function.operation)

    def _present(self) -> list[str]:
        """The blocks that are still linalg operations, in order."""
        found = [_block_name(op) for op in walk(self.kernel.function)]
        return [name for name in dict.fromkeys(found) if name]

    def _apply(self, text: str, block: str, build: Callable[[Handle], None]) -> Schedule:
        present = self._present()
        if block and block not in present:
            raise ScheduleError(
                f"kernel '{self.kernel.name}': {text}: no block '{block}'; there are "
                + (", ".join(present) or "none left")
            )
        try:
            apply(self.kernel.function, build)
        except ScheduleError as error:
            raise ScheduleError(f"kernel '{self.kernel.name}': {text}: {error}") from error
        self.trace.append(text)
        self._label()
        return self

    def _label(self) -> None:
        """Name the operations that a primitive has made."""
        for op in walk(self.kernel.function):
            if is_linalg(op) and not _block_name(op):
                self._made += 1
                name = ir.StringAttr.get(f"new{self._made}", op.context)
                op.operation.attributes[BLOCK] = name


def _block_name(op: ir.OpView) -> str:
    attributes = op.operation.attributes
    return ir.StringAttr(attributes[BLOCK]).value if BLOCK in attributes else ""


def _match(root: Handle, block: str) -> Handle:
    attributes = ir.DictAttr.get({BLOCK: ir.StringAttr.get(block)})
    return structured.MatchOp(transform.AnyOpType.get(), root, op_attrs=attributes).result


def _clean(root: Handle) -> None:
    """Fold away what tiling leaves behind."""
    with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
        structured.ApplyTilingCanonicalizationPatternsOp()
        loop_transform.ApplyForLoopCanonicalizationPatternsOp()
        tensor_transform.ApplyMergeConsecutiveInsertExtractSlicePatternsOp()
        transform.ApplyCanonicalizationPatternsOp()
    transform.ApplyCommonSubexpressionEliminationOp(root)
