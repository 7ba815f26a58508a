"""Loops directly inside loops."""

from __future__ import annotations

from dataclasses import dataclass

from mlcflow.mlir import ir, scf, tensor

PURE = ("tensor.extract_slice", "affine.apply", "affine.min", "arith.constant", "tensor.dim")


@dataclass(frozen=True)
class Between:
    """What the body of a loop holds beside the loop ``inner``.

    ``extract`` and ``insert`` take the slice that ``inner`` works on and put it back, ``None``
    where ``inner`` carries the whole; ``pure`` are the other operations, ``extract`` included,
    which may be computed anew in each iteration of ``inner``.
    """

    inner: scf.ForOp
    pure: tuple[ir.OpView, ...] = ()
    extract: tensor.ExtractSliceOp | None = None
    insert: tensor.InsertSliceOp | None = None


def between(outer: scf.ForOp) -> Between | None:
    """How the body of ``outer`` consists of one loop; ``None`` if there is other work in it."""
    operations = list(outer.body.operations)
    loops = [op for op in operations if isinstance(op, scf.ForOp)]
    if len(loops) != 1 or len(outer.inner_iter_args) != 1 or len(loops[0].initArgs) != 1:
        return None
    inner, result = loops[0], operations[-1].operands[0]
    carried = outer.inner_iter_args[0]
    others = [op for op in operations[:-1] if op != inner]
    if inner.initArgs[0] == carried and result == inner.results[0]:
        return Between(inner) if not others else None
    insert = None if isinstance(result.owner, ir.Block) else result.owner
    extract = None if isinstance(inner.initArgs[0].owner, ir.Block) else inner.initArgs[0].owner
    if not isinstance(insert, tensor.InsertSliceOp):
        return None
    if not isinstance(extract, tensor.ExtractSliceOp):
        return None
    pure = tuple(op for op in others if op != insert)
    if not all(op.operation.name in PURE for op in pure):
        return None
    if insert.source != inner.results[0] or insert.dest != carried or extract.source != carried:
        return None
    if not _same_slice(extract, insert) or not _only_inside(pure, inner, insert):
        return None
    return Between(inner, pure, extract, insert)


def _same_slice(extract: tensor.ExtractSliceOp, insert: tensor.InsertSliceOp) -> bool:
    """Whether what is put back is what was taken."""
    return list(extract.operands)[1:] == list(insert.operands)[2:] and all(
        extract.attributes[key] == insert.attributes[key]
        for key in ("static_offsets", "static_sizes", "static_strides")
    )


def _only_inside(
    pure: tuple[ir.OpView, ...], inner: scf.ForOp, insert: tensor.InsertSliceOp
) -> bool:
    """Whether what lies before the inner loop is used by it and by the insertion only."""
    bounds = {inner.lowerBound, inner.upperBound, inner.step}
    return not any(
        result in bounds and op.operation.name != "arith.constant"
        for op in pure
        for result in op.results
    )


def inner_loop(outer: scf.ForOp) -> scf.ForOp | None:
    """The loop that is all of the body of ``outer``, carrying the same values."""
    found = between(outer)
    return found.inner if found is not None and found.insert is None else None
