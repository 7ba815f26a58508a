"""Mapping a block to a warp of a GPU, and to its tensor cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError
from mlcflow.gpu.mma_form import (
    FACTORS,
    MOST,
    ROWS,
    WGMMA,
    WGMMA_CHIPS,
    WGMMA_COLUMNS,
    MmaForm,
    mma_form,
)
from mlcflow.mlir import ir
from mlcflow.schedule.emit import annotate, match_block
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import INTRINSIC
from mlcflow.target import Target

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule


def to_mma(schedule: Schedule, block: str, intrinsic: str, target: Target | None) -> None:
    """Let a warp compute ``block`` on tensor cores; see :meth:`Schedule.tensorize`.

    The block is the tile of one warp: ``C[m, n] += A[m, k] * B[k, n]`` (or ``B[n, k]``) into f32,
    m a multiple of 16, n and k of 8. ``nvgpu.mma`` multiplies f16 or
    bf16 exactly; ``nvgpu.mma.tf32`` rounds factors of f32 to tf32, which it says by its name;
    ``gpu.fma`` multiplies f32 exactly, without tensor cores, what the warp holds of A.
    ``nvvm.wgmma`` multiplies f16 or bf16 by four warps together, of 16 rows each (sm_90a).
    The block stays what it is, and runs as such, until loops become threads. Raises
    ``ScheduleError``.
    """
    problem = why_not(schedule.block(block), intrinsic, target)
    if problem:
        raise ScheduleError(f"tensorize: '{block}' cannot be {intrinsic}: {problem}")

    def build(root: Handle) -> None:
        annotate(match_block(root, block), INTRINSIC, ir.StringAttr.get(intrinsic))

    schedule.apply("tensorize", {"block": block, "intrinsic": intrinsic}, build)


def why_not(op: ir.OpView, intrinsic: str, target: Target | None) -> str:
    """Why a block cannot become tiles of tensor cores; empty if it can."""
    if target is not None and target.kind != "cuda":
        return f"target {target} has no tensor cores"
    form = mma_form(op)
    if isinstance(form, str):
        return form
    if form.kind not in FACTORS[intrinsic]:
        return f"its factors are {form.kind}"
    if form.instructions > MOST:
        return f"it would be {form.instructions} instructions, more than {MOST}; tile it first"
    return _why_no_warpgroup(form, target) if intrinsic == WGMMA else ""


def _why_no_warpgroup(form: MmaForm, target: Target | None) -> str:
    if target is not None and target.chip not in WGMMA_CHIPS:
        return f"{target.chip} has no instructions of warpgroups; {', '.join(WGMMA_CHIPS)} has"
    if form.k % form.depth:
        return f"it has {form.k} steps of the reduction; expected a multiple of {form.depth}"
    if form.m != ROWS or form.n > WGMMA_COLUMNS:
        return (
            f"its tile is {form.m} x {form.n}; expected {ROWS} rows, those of one warp of four, "
            f"and up to {WGMMA_COLUMNS} columns"
        )
    return ""
