"""A kernel, as schedule rules see it."""

from __future__ import annotations

from dataclasses import dataclass

from mlcflow.graph.linalg_ops import (
    indexing_maps,
    is_elementwise,
    is_fill,
    is_generic,
    is_linalg,
    iterators,
)
from mlcflow.graph.outline import kernels
from mlcflow.mlir import func, ir, linalg, walk


@dataclass(frozen=True)
class Kernel:
    """One private function of the graph, called ``name``, and its linalg operations.

    ``kind``: ``contraction``, ``convolution``, ``reduction``, ``elementwise``, ``normalization``
    (reductions of rows, and elementwise operations on these rows), ``attention`` (these between
    two contractions) or ``other``.
    ``root`` is the operation that gives the kind; ``final`` the one whose results are the
    kernel's (the epilogue, or the root itself). ``blocks`` are all of them in order, fills
    included. ``loops`` are the extents of the loops of ``root``, -1 where open.
    """

    name: str
    function: func.FuncOp
    kind: str
    root: ir.OpView
    final: ir.OpView
    blocks: tuple[ir.OpView, ...]
    loops: tuple[int, ...]

    @property
    def is_static(self) -> bool:
        """Whether every loop has a known, non-zero extent."""
        return all(extent > 0 for extent in self.loops)

    @property
    def element_types(self) -> set[str]:
        """The element types of everything the kernel reads or writes, as MLIR spells them."""
        return {
            str(ir.ShapedType(value.type).element_type)
            for op in self.blocks
            for value in [*op.operation.operands, *op.operation.results]
            if isinstance(value.type, ir.ShapedType)
        }


def find_kernels(module: ir.Module) -> list[Kernel]:
    """The kernels of a module whose graph has been partitioned."""
    found = (read_kernel(function) for function in kernels(module))
    return [kernel for kernel in found if kernel is not None]


def read_kernel(function: func.FuncOp) -> Kernel | None:
    """The kernel that ``function`` holds; ``None`` when no linalg operation is left in it."""
    blocks = tuple(op for op in walk(function) if is_linalg(op))
    working = [op for op in blocks if not is_fill(op)] or list(blocks)
    if not working:
        return None
    roots = [op for op in working if not is_elementwise(op)]
    root = roots[0] if roots else working[-1]
    kind = _kind(root) if len(roots) <= 1 else "other"
    if _is_normalization(roots, working[-1]):
        kind = "normalization"
    if _is_attention(roots):
        kind = "attention"
    name = function.name.value
    return Kernel(name, function, kind, root, working[-1], blocks, loop_extents(root))


def _is_normalization(roots: list[ir.OpView], final: ir.OpView) -> bool:
    """Whether rows are reduced several times, or their elements changed by what they reduce to."""
    if not roots or any(_kind(op) != "reduction" for op in roots):
        return False
    rows = iterators(roots[0]).count("parallel")
    return len(roots) > 1 or (final != roots[0] and len(loop_extents(final)) > rows)


def _is_attention(roots: list[ir.OpView]) -> bool:
    """Whether rows of the first product are reduced before they are multiplied again."""
    kinds = [_kind(op) for op in roots]
    return len(kinds) > 2 and kinds == ["contraction", *["reduction"] * (len(kinds) - 2), kinds[0]]


def _kind(op: ir.OpView) -> str:
    if linalg.isa_contraction_op(op.operation):
        return "contraction"
    if linalg.isa_convolution_op(op.operation):
        return "convolution"
    if is_elementwise(op):
        return "elementwise"
    if is_generic(op) and "reduction" in iterators(op):
        return "reduction"
    return "other"


def loop_extents(op: ir.OpView) -> tuple[int, ...]:
    """The extent of each loop of a linalg operation, -1 where open.

    It is the size of a dimension that the loop alone runs over.
    """
    maps = indexing_maps(op)
    extents = [-1] * (maps[0].n_dims if maps else 0)
    for operand, affine_map in zip(op.operation.operands, maps, strict=True):
        if isinstance(operand.type, ir.ShapedType):
            kind = ir.ShapedType(operand.type)
            for dimension, expression in enumerate(affine_map.results):
                single = isinstance(expression, ir.AffineDimExpr)
                if single and not kind.is_dynamic_dim(dimension):
                    extents[expression.position] = kind.get_dim_size(dimension)
    return tuple(extents)
