"""Pieces of transform IR that the primitives share."""

from __future__ import annotations

from collections.abc import Sequence

from mlcflow.mlir import ir, loop_transform, structured, tensor_transform, transform
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import BLOCK, KIND, LOOP, LOOPS, OF, Loop


def name_blocks(root: Handle) -> None:
    """Name the blocks that have no name yet."""
    ir.Operation.create("schedule.name_blocks", operands=[root])


def match_block(root: Handle, block: str) -> Handle:
    """The block of that name."""
    return _match(root, {BLOCK: ir.StringAttr.get(block)})


def match_loop(root: Handle, loop: Loop) -> Handle:
    """The ``scf.for`` that ``loop`` is."""
    return _match(root, {LOOP: ir.StringAttr.get(loop.name), OF: ir.StringAttr.get(loop.of)})


def match_loops(root: Handle) -> Handle:
    """Every ``scf.for``."""
    return structured.MatchOp.match_op_names(root, ["scf.for"]).result


def _match(root: Handle, attributes: dict[str, ir.Attribute]) -> Handle:
    found = ir.DictAttr.get(attributes)
    return structured.MatchOp(transform.AnyOpType.get(), root, op_attrs=found).result


def annotate(handle: Handle, key: str, value: ir.Attribute) -> None:
    """Set an attribute on what ``handle`` stands for."""
    parameter = transform.ParamConstantOp(transform.AnyParamType.get(), value).result
    transform.AnnotateOp(handle, key, param=parameter)


def name_loop(handle: Handle, block: str, name: str, kind: str) -> None:
    """Name an ``scf.for`` that was made for ``block``."""
    annotate(handle, LOOP, ir.StringAttr.get(name))
    annotate(handle, OF, ir.StringAttr.get(block))
    annotate(handle, KIND, ir.StringAttr.get(kind))


def name_inner(handle: Handle, names: Sequence[str]) -> None:
    """Name the loops inside a block."""
    annotate(handle, LOOPS, ir.ArrayAttr.get([ir.StringAttr.get(name) for name in names]))


def clean(root: Handle) -> None:
    """Fold away what tiling leaves behind: slices of slices, slices of the whole."""
    with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
        tensor_transform.ApplyMergeConsecutiveInsertExtractSlicePatternsOp()
        transform.ApplyCanonicalizationPatternsOp()
    transform.ApplyCommonSubexpressionEliminationOp(root)


def simplify(root: Handle) -> None:
    """Fold all that folds, loops of one iteration included."""
    with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
        structured.ApplyTilingCanonicalizationPatternsOp()
        loop_transform.ApplyForLoopCanonicalizationPatternsOp()
        tensor_transform.ApplyMergeConsecutiveInsertExtractSlicePatternsOp()
        transform.ApplyCanonicalizationPatternsOp()
    transform.ApplyCommonSubexpressionEliminationOp(root)
