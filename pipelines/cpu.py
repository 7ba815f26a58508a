"""The optimizing pipeline for processors."""

from __future__ import annotations

from mlcflow.graph.attention import partition_attention
from mlcflow.graph.batch_norm import fold_batch_norm, separate_bias
from mlcflow.graph.causal import skip_hidden_keys
from mlcflow.graph.conditions import join_conditions
from mlcflow.graph.dots import lower_dots
from mlcflow.graph.fuse import fuse_elementwise
from mlcflow.graph.layout import channels_last
from mlcflow.graph.library_calls import call_libraries
from mlcflow.graph.memory import plan_memory
from mlcflow.graph.narrow_factors import narrow_factors
from mlcflow.graph.outline import use_destinations
from mlcflow.graph.padding import pad_in_kernels
from mlcflow.graph.panels import prepare_panels
from mlcflow.graph.parallel import run_in_threads
from mlcflow.graph.partition import partition
from mlcflow.graph.positions import compute_positions
from mlcflow.graph.prefetch import prefetch_rows
from mlcflow.graph.prepare import prepare
from mlcflow.graph.reciprocals import multiply_by_reciprocals
from mlcflow.graph.reshapes import sink_expansions
from mlcflow.graph.rows import partition_rows
from mlcflow.graph.scratch import (
    hoist_buffers,
    lend_scratch,
    separate_iterations,
    separate_values,
)
from mlcflow.graph.streams import stream_results
from mlcflow.graph.transposes import fold_transposes
from mlcflow.graph.unit_loops import generalize_unit_products
from mlcflow.graph.unused_results import drop_unused_results
from mlcflow.graph.winograd import use_winograd
from mlcflow.graph.winograd_blocks import block_winograd
from mlcflow.mlir import ir, structured
from mlcflow.passes import Pass
from mlcflow.pipeline import Pipeline, Stage, Step
from mlcflow.pipelines.reference import bufferize, loops, tidy, to_llvm
from mlcflow.pipelines.schedules import cpu_rules
from mlcflow.schedule.interpret import Handle, apply
from mlcflow.schedule.lower_vectors import lower_vectors
from mlcflow.schedule.rules import apply_rules
from mlcflow.target import Target
from mlcflow.vector_math.expand import expand_math
from mlcflow.vector_math.maximum import choose_larger
from mlcflow.vector_math.whole_powers import multiply_powers_out


def pipeline(target: Target, *, fast_math: bool = True) -> Pipeline:
    """Kernels, each scheduled by itself, in memory that is planned.

    ``fast_math``: float sums may go in another order, which no load or number of threads changes.
    """
    # Only this rule changes the order of a sum.
    rules = {name: rule for name, rule in cpu_rules().items() if fast_math or name != "reduction"}
    return Pipeline(
        "cpu",
        (
            Stage(
                "simplify",
                *tidy(),
                multiply_powers_out,
                narrow_factors(target),
                *images(fast_math=fast_math),
                # Rounds more than a sum of products.
                *([use_winograd(target)] if fast_math else []),
                *fold_shapes(),
            ),
            Stage(
                "kernels",
                *([multiply_by_reciprocals] if fast_math else []),
                # Their reductions go in another order.
                *(cut(partition_attention, partition_rows) if fast_math else cut()),
                *(blocks(target) if fast_math else ()),
            ),
            Stage(
                "schedule",
                apply_rules(rules, target),
                Pass("canonicalize"),
                Pass("cse"),
                prepare_panels,
            ),
            Stage("bufferize", *to_memory(target)),
            Stage(
                "vectors",
                skip_hidden_keys,
                prefetch_rows(target),
                lower_vectors,
                choose_larger,
                expand_math(target),
                lower_dots(target),
                stream_results(target),
            ),
            Stage("loops", call_libraries, *loops()),
            Stage("threads", run_in_threads(target)),
            Stage("llvm", *to_llvm(target, fast_math=fast_math)),
        ),
    )


def images(*, fast_math: bool) -> tuple[Step, ...]:
    """Convolutions, poolings and what lies between them, with channels last."""
    return (
        join_conditions,
        separate_bias,
        *([fold_batch_norm] if fast_math else []),
        channels_last,
        Pass("refback-generalize-tensor-concat", on="func.func"),
        Pass("cse"),
    )


def fold_shapes(
    units: Step = generalize_unit_products, transposes: Step = fold_transposes
) -> tuple[Step, ...]:
    """Operations without loops of one iteration, and without transposes that they can read.

    ``units``: what prepares products for the former; ``transposes``: does the latter.
    """
    return (
        generalize_movement,
        units,
        # Loops of one iteration hide what an operation is: a row is no matrix.
        Pass("linalg-fold-unit-extent-dims"),
        drop_unused_results,
        sink_expansions,
        compute_positions,
        transposes,
        Pass("canonicalize"),
        Pass("cse"),
    )


def cut(*first: Step, destinations: Step = use_destinations) -> tuple[Step, ...]:
    """From one function to kernels, with what depends on parameters alone set apart.

    ``first``: steps that move some operations to kernels of a special kind.
    ``destinations``: the step that lets kernels write the memory that they are given.
    """
    return (
        prepare,
        *first,
        partition,
        fuse_elementwise,
        destinations,
        pad_in_kernels,
        Pass("refback-generalize-tensor-pad", on="func.func"),  # what is left
        Pass("cse"),  # what fusion has doubled, before what that makes of it is folded
        Pass("canonicalize"),
        Pass("cse"),
        Pass("duplicate-function-elimination"),
        Pass("symbol-dce"),
    )


def blocks(target: Target) -> tuple[Step, ...]:
    """Kernels that read what others write a part at a time, joined with them."""
    return (block_winograd(target), Pass("canonicalize"), Pass("cse"), Pass("symbol-dce"))


def to_memory(target: Target) -> tuple[Step, ...]:
    """From tensors to memory: what is alive within a call lies in one arena."""
    return (
        separate_iterations,
        separate_values,
        *bufferize(hoist_buffers, lend_scratch(target), plan_memory),
    )


def generalize_movement(module: ir.Module) -> None:
    """Transposes and broadcasts as generics, so that they fuse like elementwise operations."""

    def build(root: Handle) -> None:
        found = structured.MatchOp.match_op_names(root, ["linalg.transpose", "linalg.broadcast"])
        structured.GeneralizeOp(found)

    apply(module, build)
