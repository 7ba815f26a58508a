"""The pipeline for GPUs of NVIDIA."""

from __future__ import annotations

from mlcflow.errors import MlcflowError, unknown_name
from mlcflow.gpu.aliases import mark_distinct_arguments
from mlcflow.gpu.assertions import report_from_kernels
from mlcflow.gpu.async_copies import pipeline_copies
from mlcflow.gpu.attention_form import partition_heads
from mlcflow.gpu.device_memory import (
    hoist_allocations,
    launch_scalars,
    pass_constants,
    separate_tiles,
    sink_constants,
)
from mlcflow.gpu.dynamic_memory import declare_dynamic_memory, share_dynamically
from mlcflow.gpu.host_calls import call_driver, link_driver
from mlcflow.gpu.launch import map_to_launches
from mlcflow.gpu.lower import keep_registers, lower_all_reduce, name_kernels, to_nvvm
from mlcflow.gpu.ptx import kernels_to_ptx
from mlcflow.gpu.single_rows import read_in_place
from mlcflow.gpu.tensor_cores import mark_swizzles, to_tensor_cores
from mlcflow.graph.assertions import report_assertions
from mlcflow.graph.collapses import collapse_first
from mlcflow.graph.interface import record_interface
from mlcflow.graph.memory import plan_memory
from mlcflow.graph.narrow_factors import narrow_factors
from mlcflow.graph.outline import write_destinations
from mlcflow.graph.results import copy_without_runtime
from mlcflow.graph.rows import partition_rows
from mlcflow.graph.unit_loops import drop_unit_batches
from mlcflow.llvm_target import keep_kernels_apart
from mlcflow.passes import Pass
from mlcflow.pipeline import Pipeline, Stage, Step
from mlcflow.pipelines.cpu import cut, fold_shapes, images
from mlcflow.pipelines.reference import bufferize, tidy
from mlcflow.pipelines.schedules import cuda_rules
from mlcflow.schedule.lower_vectors import lower_vectors
from mlcflow.schedule.rules import apply_rules
from mlcflow.target import Target

PRECISIONS = ("exact", "tf32")


def pipeline(target: Target, *, fast_math: bool = True, precision: str = "exact") -> Pipeline:
    """Kernels mapped to blocks and threads, the calls of the driver that launch them.

    ``fast_math``: the product and the sum of ``a * b + c`` may be rounded once, and sums of
    floating-point numbers taken in another order than the model's. ``precision``: "exact", or
    "tf32" to multiply matrices of f32 on tensor cores, their elements rounded to 11 bits.
    """
    if precision not in PRECISIONS:
        raise MlcflowError(unknown_name("precision", precision, PRECISIONS))
    rules = cuda_rules(tf32=precision == "tf32")
    rules = {name: rule for name, rule in rules.items() if fast_math or name != "rows"}
    return Pipeline(
        "cuda",
        (
            Stage(
                "simplify",
                *tidy(),
                narrow_factors(target),
                *images(fast_math=fast_math),
                *fold_shapes(drop_unit_batches, collapse_first),
            ),
            Stage(
                "kernels",
                # Their reductions go in another order.
                *cut(
                    *([partition_heads, read_in_place, partition_rows] if fast_math else []),
                    destinations=write_destinations,
                ),
            ),
            Stage("schedule", apply_rules(rules, target), Pass("canonicalize"), Pass("cse")),
            Stage(
                "bufferize",
                separate_tiles,
                *bufferize(hoist_allocations, plan_memory),
            ),
            Stage("vectors", lower_vectors),
            Stage("launch", *launch()),
            Stage("outline", *outline(target)),
            Stage(
                "nvvm",
                *to_nvvm(fast_math=fast_math),
                declare_dynamic_memory,
                keep_registers(target),
            ),
            Stage("ptx", kernels_to_ptx(target)),
            Stage("llvm", call_driver, *host_to_llvm(), link_driver),
        ),
    )


def launch() -> tuple[Step, ...]:
    """From loops to ``gpu.launch``; what no rule has scheduled gets a thread an element."""
    return (
        Pass("tm-tensor-to-loops", on="func.func"),
        pass_constants,
        copy_without_runtime,
        launch_scalars,
        mark_swizzles,
        pipeline_copies,
        to_tensor_cores,
        Pass("convert-linalg-to-parallel-loops", on="func.func"),
        map_to_launches,
        report_from_kernels,
        record_interface,  # constants and the status are new
        sink_constants,
        # Views of tiles become positions in the arrays, which is easier to read, and to hoist.
        Pass("fold-memref-alias-ops"),
        Pass("canonicalize"),
        Pass("cse"),
    )


def host_to_llvm() -> tuple[Step, ...]:
    """What is left beside the kernels: it runs on the machine that the driver runs on."""
    return (
        Pass("lower-affine"),
        Pass("convert-scf-to-cf"),
        report_assertions,
        Pass("arith-expand", on="func.func", include_bf16=True),
        Pass("memref-expand", on="func.func"),
        Pass("convert-complex-to-standard"),
        # log(1 + x) is no log1p of a small x: the C library has one.
        Pass("convert-math-to-llvm", on="func.func", approximate_log1p=False),
        Pass("convert-math-to-libm"),
        Pass("expand-strided-metadata"),
        Pass("lower-affine"),
        # Memory that is not planned comes from the driver, not from the C library.
        Pass("finalize-memref-to-llvm", use_generic_functions=True),
        Pass("convert-complex-to-llvm"),
        Pass("convert-arith-to-llvm"),
        Pass("convert-index-to-llvm"),
        Pass("convert-ub-to-llvm"),
        Pass("convert-func-to-llvm"),
        Pass("convert-cf-to-llvm"),
        Pass("reconcile-unrealized-casts"),
        keep_kernels_apart,
    )


def outline(target: Target) -> tuple[Step, ...]:
    """Each launch as a function of its own, which takes nothing that it can compute."""
    return (
        Pass("gpu-launch-sink-index-computations", on="func.func"),
        Pass("gpu-kernel-outlining"),
        name_kernels,
        lower_all_reduce,
        mark_distinct_arguments,
        share_dynamically(target),
        Pass("canonicalize"),
    )
