"""Lowering vectors of several dimensions to registers."""

from __future__ import annotations

from mlcflow.mlir import func, ir, transform, vector_transform, walk
from mlcflow.schedule.interpret import Handle, apply


def lower_vectors(module: ir.Module) -> None:
    """Contractions become outer products, these multiply-adds of rows; transfers become rows.

    Nothing may be canonicalized between here and the LLVM dialect: upstream folds the chains
    of row insertions into ``vector.from_elements`` of hundreds of scalars.
    """
    for function in module.body.operations:
        if isinstance(function, func.FuncOp) and _has_vectors(function):
            apply(function, _build)


def _has_vectors(function: func.FuncOp) -> bool:
    return any(op.operation.name.startswith("vector.") for op in walk(function))


def _build(function: Handle) -> None:
    def patterns() -> ir.InsertionPoint:
        return ir.InsertionPoint(transform.ApplyPatternsOp(function).patterns)

    with patterns():
        # To one dimension, which is a single instruction for the processor.
        vector_transform.ApplyReorderMultiReductionPatternsOp(
            lowering_strategy=vector_transform.VectorMultiReductionLowering.InnerReduction
        )
    with patterns():
        vector_transform.ApplyMultiReductionFlatteningPatternsOp(
            lowering_strategy=vector_transform.VectorMultiReductionLowering.InnerReduction
        )
    with patterns():
        vector_transform.ApplyMultiReductionUnrollingPatternsOp(
            lowering_strategy=vector_transform.VectorMultiReductionLowering.InnerReduction
        )
    with patterns():
        vector_transform.ApplyLowerContractionPatternsOp(
            lowering_strategy=vector_transform.VectorContractLowering.OuterProduct
        )
        vector_transform.ApplyTransferPermutationPatternsOp()
    with patterns():
        vector_transform.ApplyLowerOuterProductPatternsOp()
        vector_transform.ApplyLowerBroadcastPatternsOp()
        vector_transform.ApplyLowerTransposePatternsOp()
        vector_transform.ApplyLowerShapeCastPatternsOp()
    with patterns():
        # Partial unrolling would leave a memref of vectors: a round trip through memory.
        vector_transform.ApplyTransferToScfPatternsOp(full_unroll=True, max_transfer_rank=1)
    with patterns():
        vector_transform.ApplyLowerTransferPatternsOp(max_transfer_rank=1)
