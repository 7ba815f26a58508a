"""The trusted, slow lowering: loops, no fusion. Runs whatever torch-mlir can import.

It also lowers the module of any stage of another pipeline, which is how a stage's numbers are
compared with those of the stage before: each step leaves alone what it does not know.
"""

from __future__ import annotations

from mlcflow.graph.assertions import drop_needless_assertions, report_assertions
from mlcflow.graph.bare_pointers import pass_bare_pointers
from mlcflow.graph.divisions import guard_divisions
from mlcflow.graph.dots import spell_out_dots
from mlcflow.graph.expm1 import call_expm1
from mlcflow.graph.floats import narrow_through_f32
from mlcflow.graph.gathers import guard_gathers
from mlcflow.graph.interface import normalize_interface, record_interface
from mlcflow.graph.library_calls import spell_out_library_calls
from mlcflow.graph.results import (
    copy_without_runtime,
    free_buffers,
    require_memory,
    results_to_arguments,
)
from mlcflow.llvm_target import hide_entry_points, keep_kernels_apart, restrict_to
from mlcflow.passes import Pass
from mlcflow.pipeline import Pipeline, Stage, Step
from mlcflow.schedule.lower_vectors import lower_vectors
from mlcflow.target import Target


def pipeline(target: Target, *, opt_level: int = 1) -> Pipeline:
    """Loops in the order in which linalg states them; every value in memory."""
    return Pipeline(
        "reference",
        (
            Stage("simplify", *simplify()),
            Stage("bufferize", *bufferize()),
            # Vectors come from a stage of another pipeline.
            Stage("loops", lower_vectors, spell_out_dots, *loops()),
            Stage("llvm", *to_llvm(target)),
        ),
        opt_level=opt_level,
    )


def simplify() -> tuple[Step, ...]:
    """One function with a named interface, without what neither runs nor matters."""
    return (
        *tidy(),
        # Padding and concatenation have no bufferization of their own worth having.
        Pass("refback-generalize-tensor-pad", on="func.func"),
        Pass("refback-generalize-tensor-concat", on="func.func"),
        Pass("cse"),
    )


def tidy() -> tuple[Step, ...]:
    """The part of :func:`simplify` that leaves padding and concatenation as they are."""
    return (
        narrow_through_f32,
        guard_divisions,
        guard_gathers,  # before the first canonicalization, see there
        Pass("canonicalize"),
        Pass("convert-shape-to-std"),
        Pass("inline"),
        normalize_interface,
        drop_needless_assertions,
        Pass("convert-elementwise-to-linalg", on="func.func"),
    )


def bufferize(*plan: Step) -> tuple[Step, ...]:
    """From tensors to memory. Results become arguments where their size is known.

    ``plan`` are steps that place buffers before the rest are given an end of life.
    """
    return (
        spell_out_library_calls,
        Pass(
            "one-shot-bufferize",
            bufferize_function_boundaries=True,
            function_boundary_type_conversion="identity-layout-map",
            allow_return_allocs_from_loops=True,
            # tm_tensor operations, whose own bufferization comes after: before, the analysis
            # would not see that they read, and let others write first.
            allow_unknown_ops=True,
        ),
        Pass("tm-tensor-bufferize", on="func.func"),
        Pass("refback-mlprogram-bufferize"),
        require_memory,
        # A kernel returns the destination it was given: no result, and no copy of it. What
        # loops carry unchanged is folded first, or the destination is not recognised.
        Pass("canonicalize"),
        Pass("drop-equivalent-buffer-results"),
        results_to_arguments,
        *plan,
        free_buffers,
        Pass("convert-bufferization-to-memref"),
        record_interface,
    )


def loops() -> tuple[Step, ...]:
    """Every linalg and tm_tensor operation as a nest of loops over scalars."""
    return (
        Pass("tm-tensor-to-loops", on="func.func"),
        copy_without_runtime,
        Pass("convert-linalg-to-loops", on="func.func"),
    )


def to_llvm(target: Target, *, fast_math: bool = False) -> tuple[Step, ...]:
    """From loops, vectors and memory to the LLVM dialect.

    ``fast_math`` lets the last step of a reduction over a vector go in any order.
    """
    return (
        pass_bare_pointers,
        Pass("lower-affine"),
        Pass("convert-vector-to-scf"),
        Pass("convert-scf-to-cf"),
        report_assertions,
        # bf16 arithmetic is widened to f32 around each operation; before the math lowering,
        # which knows no bf16.
        Pass("arith-expand", on="func.func", include_bf16=True),
        Pass("memref-expand", on="func.func"),
        Pass("convert-complex-to-standard"),
        Pass(
            "math-extend-to-supported-types",
            on="func.func",
            extra_types="f64",
            target_type="f32",
        ),
        # log(1 + x) is no log1p of a small x, and exp(x) - 1 no expm1: the C library has both.
        call_expm1,
        Pass("convert-math-to-llvm", on="func.func", approximate_log1p=False),
        Pass("convert-math-to-libm"),
        Pass("arith-expand", on="func.func", include_bf16=True),
        Pass("expand-strided-metadata"),
        Pass("lower-affine"),
        Pass("convert-vector-to-llvm", reassociate_fp_reductions=fast_math, enable_x86=True),
        Pass("finalize-memref-to-llvm"),
        Pass("convert-complex-to-llvm"),
        Pass("convert-arith-to-llvm"),
        Pass("convert-index-to-llvm"),
        Pass("convert-ub-to-llvm"),
        Pass("convert-func-to-llvm"),
        Pass("convert-cf-to-llvm"),
        Pass("reconcile-unrealized-casts"),
        restrict_to(target),
        keep_kernels_apart,
        hide_entry_points,
    )
