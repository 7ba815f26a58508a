"""The optimizing pipeline for processors."""

from __future__ import annotations

from mlcflow.graph.convolutions import lay_out_convolutions
from mlcflow.graph.memory import plan_memory
from mlcflow.graph.outline import use_destinations
from mlcflow.graph.partition import partition
from mlcflow.graph.prepare import prepare
from mlcflow.graph.reshapes import sink_expansions
from mlcflow.mlir import ir, structured
from mlcflow.passes import Pass
from mlcflow.pipeline import Pipeline, Stage, Step
from mlcflow.pipelines.reference import bufferize, loops, simplify, to_llvm
from mlcflow.pipelines.schedules import cpu_rules
from mlcflow.schedule.interpret import Handle, apply
from mlcflow.schedule.lower_vectors import lower_vectors
from mlcflow.schedule.rules import apply_rules
from mlcflow.target import Target


def pipeline(target: Target, *, fast_math: bool = True) -> Pipeline:
    """Kernels, each scheduled by itself, in memory that is planned.

    ``fast_math``: sums of floating-point numbers may be taken in another order than the
    model's; the order never depends on the machine's load or the number of threads.
    """
    # Only this rule changes the order of a sum.
    rules = {name: rule for name, rule in cpu_rules().items() if fast_math or name != "reduction"}
    return Pipeline(
        "cpu",
        (
            Stage(
                "simplify",
                *simplify(),
                lay_out_convolutions,
                generalize_movement,
                # Loops of one iteration hide what an operation is: a row is no matrix.
                Pass("linalg-fold-unit-extent-dims"),
                sink_expansions,
                Pass("canonicalize"),
                Pass("cse"),
            ),
            Stage("kernels", *cut()),
            Stage("schedule", apply_rules(rules, target), Pass("canonicalize"), Pass("cse")),
            Stage(
                "bufferize", *bufferize(Pass("buffer-loop-hoisting", on="func.func"), plan_memory)
            ),
            Stage("vectors", lower_vectors),
            Stage("loops", *loops()),
            Stage("llvm", *to_llvm(target, fast_math=fast_math)),
        ),
    )


def cut() -> tuple[Step, ...]:
    """From one function to kernels, with what depends on parameters alone set apart."""
    return (
        prepare,
        partition,
        # In each kernel by itself: across kernels it would compute an element of a producer
        # once for each element of a contraction that reads it.
        Pass("linalg-fuse-elementwise-ops", on="func.func"),
        use_destinations,
        Pass("canonicalize"),
        Pass("cse"),
        Pass("duplicate-function-elimination"),
        Pass("symbol-dce"),
    )


def generalize_movement(module: ir.Module) -> None:
    """Transposes and broadcasts as generics, so that they fuse like elementwise operations."""

    def build(root: Handle) -> None:
        found = structured.MatchOp.match_op_names(root, ["linalg.transpose", "linalg.broadcast"])
        structured.GeneralizeOp(found)

    apply(module, build)
