"""Pipelines with a bug, planted as a step of one stage of pipeline ``cpu``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from mlcflow import Pipeline, Stage, Target, mlir
from mlcflow.graph.outline import kernels
from mlcflow.mlir import ir
from mlcflow.pipeline import Step
from mlcflow.pipelines import build

Match = Callable[[ir.OpView], bool]


def planted(stage: str, bug: Step, at: int | None = None) -> Pipeline:
    """Pipeline ``cpu`` with ``bug`` in ``stage``: as step number ``at``, by default the last."""
    stages = []
    for each in build("cpu", Target.host()).stages:
        steps = list(each.steps)
        if each.name == stage:
            steps.insert(len(steps) if at is None else at, bug)
        stages.append(Stage(each.name, *steps))
    return Pipeline("planted", tuple(stages))


def named(*names: str) -> Match:
    """Operations of these names."""
    return lambda op: op.operation.name in names


def find(module: ir.Module, matches: Match) -> list[ir.OpView]:
    return [op for op in mlir.walk(module.operation) if matches(op)]


def another_operation(module: ir.Module) -> None:
    """Adds where the model subtracts."""
    for op in find(module, named("arith.subf")):
        with ir.InsertionPoint(op), op.location:
            made = ir.Operation.create(
                "arith.addf", results=[op.results[0].type], operands=list(op.operands)
            )
        op.results[0].replace_all_uses_with(made.results[0])
        op.operation.erase()


def swapped_operands(module: ir.Module) -> None:
    """Divides, or subtracts, the wrong way round."""
    for op in find(module, lambda op: op.operation.name in ("arith.divf", "arith.subf"))[:1]:
        left, right = op.operands
        op.operation.operands[0], op.operation.operands[1] = right, left


def dropped_epilogue(module: ir.Module) -> None:
    """Forgets the bias: the last addition of a kernel with a matrix product."""
    for function in kernels(module):
        inside = mlir.walk(function)
        if any("matmul" in op.operation.name for op in inside):
            adds = [op for op in inside if op.operation.name == "arith.addf"]
            last = [op for op in adds if op.operation.parent.name == "linalg.generic"][-1]
            last.results[0].replace_all_uses_with(last.operands[0])
            last.operation.erase()
            return


def short_loop(module: ir.Module) -> None:
    """A loop over memory that stops one iteration early: a wrong tile bound."""
    for function in kernels(module):
        for op in mlir.walk(function):
            if op.operation.name == "scf.for":
                with ir.InsertionPoint(op), op.location:
                    less = ir.Operation.create(
                        "arith.subi",
                        results=[op.operands[1].type],
                        operands=[op.operands[1], op.operands[2]],
                    )
                op.operation.operands[1] = less.results[0]
                return


def wrong_constant(module: ir.Module) -> None:
    """Starts a sum, or a maximum, from another number."""
    for function in kernels(module):
        for op in mlir.walk(function):
            kind = op.results[0].type if len(op.results) == 1 else None
            if op.operation.name == "arith.constant" and isinstance(kind, ir.FloatType):
                value = ir.FloatAttr(op.operation.attributes["value"]).value
                if value == 0.0:
                    op.operation.attributes["value"] = ir.FloatAttr.get(kind, 0.5)
                    return


def dropped_scale(module: ir.Module) -> None:
    """Leaves a multiplication by a constant out."""
    for op in find(module, named("arith.mulf")):
        if op.operands[0] != op.operands[1] and op.operation.parent.name == "linalg.generic":
            op.results[0].replace_all_uses_with(op.operands[0])
            op.operation.erase()
            return


def overlapping_buffers(module: ir.Module) -> None:
    """Puts everything that the memory plan holds to one place."""
    views = find(module, named("memref.view"))
    starts = [view.operands[1] for view in views]
    first = next(value for value in starts if "constant 0 :" in str(value.owner))
    for view in views:
        view.operation.operands[1] = first


def refuses(module: ir.Module) -> None:
    """Raises where there is a maximum."""
    if find(module, named("arith.maximumf")):
        raise ValueError("a maximum is more than this step can do")


def crashes(module: ir.Module) -> None:
    """Ends the process where there is an exponential."""
    if find(module, named("math.exp", "math.exp2")):
        os.abort()


def hangs(module: ir.Module) -> None:
    """Never ends where there is an exponential."""
    while find(module, named("math.exp", "math.exp2")):
        time.sleep(0.01)
