"""Products of one row of f32, as a step of decoding has them, read their factors as they lie.

Each element of the matrix is needed once, so to store it in another form costs more than to
multiply it.
"""

from __future__ import annotations

from mlcflow.graph.attention_products import Product, is_product, product_of, source
from mlcflow.graph.generic import generic
from mlcflow.graph.heads import separate_heads
from mlcflow.graph.linalg_ops import indexing_maps, inputs, loop_kinds, outputs
from mlcflow.graph.outline import graphs
from mlcflow.graph.same_operation import element_type
from mlcflow.graph.split_loops import fold_reshapes
from mlcflow.mlir import arith, ir


def read_in_place(module: ir.Module) -> None:
    """Let such products read the sources of what moves and widens their factors."""
    for function in graphs(module):
        for block in function.regions[0].blocks:
            for op in [each for each in block.operations if is_product(each)]:
                separate_heads(op, _is_of_one_row)
            fold_reshapes(block)
            for op in [each for each in block.operations if is_product(each)]:
                form = product_of(op)
                if form is not None and form.rows == 1:
                    _read_sources(op)


def _is_of_one_row(scores: Product, _: Product, kind: str) -> bool:
    return scores.rows == 1 and kind in ("f16", "bf16", "f32")


def _read_sources(op: ir.OpView) -> None:
    maps, read = [list(each.results) for each in indexing_maps(op)], list(inputs(op))
    steps = [source(value) for value in read]
    if str(element_type(op.results[0])) != "f32" or not any(steps):
        return
    for number, each in enumerate(steps):
        for step in each:
            order = [e.position for e in indexing_maps(step)[0].results]
            maps[number] = [maps[number][position] for position in order]
            read[number] = inputs(step)[0]

    def body(left: ir.Value, right: ir.Value, total: ir.Value) -> ir.Value:
        wide = [x if x.type == total.type else arith.extf(total.type, x) for x in (left, right)]
        return arith.addf(total, arith.mulf(*wide))

    with ir.InsertionPoint(op), op.location:
        result = generic(read, outputs(op)[0], maps, loop_kinds(op), body)
    op.results[0].replace_all_uses_with(result)
    op.operation.erase()
    for step in [step for each in steps for step in each]:
        step.operation.erase()
