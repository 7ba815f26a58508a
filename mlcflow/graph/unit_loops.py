"""Products with a loop of one iteration are products of less."""

from __future__ import annotations

from mlcflow.graph.generic import generic
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_generic,
    is_linalg,
    loop_kinds,
    outputs,
)
from mlcflow.graph.reshapes import collapse
from mlcflow.mlir import ir, linalg, tensor, walk


def generalize_unit_products(module: ir.Module) -> None:
    """Turn named products with a loop of one iteration into generics.

    ``linalg-fold-unit-extent-dims``, which comes next, then removes the loop from the product as
    it does from the operations after it; else a reshape would stay between them, and the
    product of one row would not fuse with its bias and activation.
    """
    for op in walk(module.operation):
        is_named = is_linalg(op) and not is_generic(op)
        if is_named and linalg.isa_contraction_op(op.operation) and 1 in loop_extents(op):
            _generalize(op)


def _generalize(op: ir.OpView) -> None:
    maps = [list(each.results) for each in indexing_maps(op)]
    with ir.InsertionPoint(op), op.location:
        result = generic(inputs(op), outputs(op)[0], maps, loop_kinds(op), op.regions[0].blocks[0])
    op.results[0].replace_all_uses_with(result)
    op.operation.erase()


def drop_unit_batches(module: ir.Module) -> None:
    """Turn batches of one product into that product.

    As ``linalg-fold-unit-extent-dims`` does with the operations around them, which then read and
    write the same matrices.
    """
    for op in walk(module.operation):
        is_one = op.operation.name == "linalg.batch_matmul" and len(op.operation.results) == 1
        if is_one and loop_extents(op)[0] == 1 and min(loop_extents(op)) > 0:
            _drop_batch(op)


def _drop_batch(op: ir.OpView) -> None:
    groups = [[0, 1], [2]]
    with ir.InsertionPoint(op), op.location:
        left, right, start = (collapse(value, groups) for value in op.operation.operands)
        product = linalg.matmul(left, right, outs=[start])
        kind = ir.RankedTensorType(op.results[0].type)
        whole = tensor.expand_shape(kind, product, groups, [], kind.shape)
    op.results[0].replace_all_uses_with(whole)
    op.operation.erase()
