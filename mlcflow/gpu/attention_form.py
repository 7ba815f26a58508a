"""Which kernels of attention a GPU has a schedule for."""

from __future__ import annotations

from mlcflow.gpu.mma_form import COLUMNS, ROWS
from mlcflow.graph.attention import make_kernels
from mlcflow.graph.attention_products import Product
from mlcflow.mlir import ir

WIDEST = {"f16": 192, "bf16": 192, "f32": 128}
"""Elements of a head, at most, by their type: what a warp keeps of 16 queries, and of their
results, are registers, of which a thread has 255. At 256 elements these alone would be 192."""


def partition_heads(module: ir.Module) -> None:
    """Make kernels of attention; see :func:`mlcflow.graph.attention.make_kernels`."""
    make_kernels(module, _suits)


def _suits(scores: Product, values: Product, kind: str) -> bool:
    widths = (scores.depth, values.columns)
    return (
        kind in WIDEST
        and min(scores.rows, scores.columns) >= ROWS
        and max(widths) <= WIDEST[kind]
        and not any(width % COLUMNS for width in widths)
    )
