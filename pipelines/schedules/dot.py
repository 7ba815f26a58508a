"""Matrix products of bf16 or i8, by the dot product instructions of the processor."""

from __future__ import annotations

from mlcflow.graph.dot_form import WIDTHS, sizes_suit
from mlcflow.graph.dots import missing_feature
from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import inputs
from mlcflow.graph.same_operation import element_type
from mlcflow.pipelines.schedules.contraction import product
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """``C[b, m, n] += A[b, m, k] * B[b, k, n]`` of bf16 into f32 or i8 into i32, with its epilogue.

    Tiled like products of f32 (rule ``contraction``). Applies to static shapes where the target
    has the instructions.
    """
    if kernel.kind != "contraction" or not kernel.is_static or len(inputs(kernel.root)) != 2:
        return None
    left, right, result = (str(element_type(value)) for value in kernel.root.operands)
    width = WIDTHS.get((left, result)) if left == right else None
    if width is None or missing_feature(left, target):
        return None
    *_, columns, depth = kernel.loops
    if not sizes_suit(columns, depth, width):
        return None
    return product(kernel, target, 32, width)
