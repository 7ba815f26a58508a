"""Names of kernels, made of what they compute: ``matmul_add_relu``."""

from __future__ import annotations

from mlcflow.graph.choices import loops_that_choose
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    is_elementwise,
    is_generic,
    is_windowed,
    iterators,
    payload,
)
from mlcflow.mlir import ir, linalg

LONGEST = 4
"""Words in a name."""

_SKIPPED = ("constant", "extf", "truncf", "index", "yield", "cmpf", "cmpi", "assert", "index_cast")


def kernel_name(group: list[ir.OpView]) -> str:
    """A name for a group: its root, then what is done to the root's result.

    A single word gets ``_kernel``: a kernel called ``exp`` would take the place of the C
    function of that name, which LLVM calls for the operation.
    """
    words: list[str] = []
    for op in group:
        words += _words(op)
    short = [word for word, before in zip(words, ["", *words], strict=False) if word != before]
    return "_".join(short[:LONGEST] if len(short) > 1 else [*(short or ["copy"]), "kernel"])


def _words(op: ir.OpView) -> list[str]:
    if not is_generic(op):
        return [op.operation.name.removeprefix("linalg.")]
    if linalg.isa_contraction_op(op.operation):
        return ["contraction"]
    if loops_that_choose(op, loop_extents(op)):
        return ["transform"]
    if is_windowed(op):
        return ["conv"]
    body = [inner.operation.name.split(".")[1] for inner in payload(op)]
    verbs = [_verb(name) for name in body if name not in _SKIPPED]
    if not is_elementwise(op) and "reduction" in iterators(op):
        return ["reduce", *verbs]
    return verbs or (["cast"] if body else ["copy"])


def _verb(name: str) -> str:
    """``mulf`` -> ``mul``, ``maximumf`` -> ``maximum``."""
    if name == "extract":
        return "gather"
    return name[:-1] if name[-1] in "fi" and len(name) > 3 else name
